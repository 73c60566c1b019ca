package compare

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// More than this, and the numbers say little.
const tolerableForeignCPU = 0.05

// Markdown writes the report for people.
func (r *Report) Markdown(w io.Writer) {
	fmt.Fprintf(w, "%d CPUs, %s, Linux %s; %d rounds.\n", r.Machine.CPUs, r.Machine.Model, r.Machine.Kernel, len(r.Rounds))
	if foreign := r.worstForeignCPU(); foreign > tolerableForeignCPU {
		fmt.Fprintf(w, "\n**Other programs used up to %.0f %% of the CPUs meanwhile: measure again on a quiet machine.**\n", foreign*100)
	}
	r.writeRows(w)
	r.writeRaw(w)
	r.writeCalls(w)
}

func (r *Report) worstForeignCPU() float64 {
	worst := 0.0
	for _, round := range r.Rounds {
		worst = max(worst, round.ForeignCPU)
	}
	return worst
}

func (r *Report) writeRows(w io.Writer) {
	fmt.Fprint(w, "\n| what | p11-kms | reference | ratio | target | reached |\n|---|---:|---:|---:|---:|---|\n")
	for _, row := range r.Rows {
		target, reached := "", ""
		if row.Target != nil {
			target, reached = row.Target.String(), "no"
			if *row.Reached {
				reached = "yes"
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %.2fx | %s | %s |\n", row.What,
			quantity(row.P11KMS, row.Unit), quantity(row.Reference, row.Unit), row.Ratio, target, reached)
	}
}

func (t *Target) String() string {
	if t.AtLeast {
		return fmt.Sprintf("≥ %.2fx", t.Bound)
	}
	return fmt.Sprintf("≤ %.2fx", t.Bound)
}

func quantity(value float64, unit string) string {
	if unit == "/s" {
		return fmt.Sprintf("%.0f/s", value)
	}
	if value < 100 {
		return fmt.Sprintf("%.1f %s", value, unit)
	}
	return fmt.Sprintf("%.0f %s", value, unit)
}

func (r *Report) writeRaw(w io.Writer) {
	fmt.Fprint(w, "\nThe token alone, PKCS#11 calls in a loop:\n\n| operation | processes | rate |\n|---|---:|---:|\n")
	for _, raw := range r.Raw {
		fmt.Fprintf(w, "| %s | %d | %.0f/s |\n", raw.Operation, raw.Processes, raw.PerSecond)
	}
}

func (r *Report) writeCalls(w io.Writer) {
	if len(r.Calls) == 0 {
		fmt.Fprint(w, "\nPKCS#11 calls a request: not counted, there is no pkcs11-spy.\n")
		return
	}
	fmt.Fprint(w, "\nPKCS#11 calls a request:\n\n| server | method | calls | which |\n|---|---|---:|---|\n")
	for _, c := range r.Calls {
		var each []string
		for _, name := range slices.Sorted(maps.Keys(c.Each)) {
			each = append(each, fmt.Sprintf("%s %.2f", name, c.Each[name]))
		}
		fmt.Fprintf(w, "| %s | %s | %.2f | %s |\n", c.Server, c.Method, c.Total, strings.Join(each, ", "))
	}
}
