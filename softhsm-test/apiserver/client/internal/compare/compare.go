// Package compare measures p11-kms against the reference plugin: the same token,
// the same client, the same load, in turns.
package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"p11-kms.test/client/internal/token"
)

// Options say what to compare and how thoroughly.
type Options struct {
	P11KMS    string // paths of programs
	Reference string
	RawLoop   string
	Module    string // the SoftHSM module
	Spy       string // pkcs11-spy; empty when there is none

	Rounds int
	Cell   time.Duration // for each method and number of calls at once

	Log io.Writer
}

// Report is everything that was measured.
type Report struct {
	Machine Machine     `json:"machine"`
	Rows    []Row       `json:"rows"`
	Raw     []RawResult `json:"raw"`
	Calls   []Calls     `json:"calls,omitempty"`
	Rounds  []Round     `json:"rounds"`
}

// Run makes a token in a temporary directory and removes it at the end.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	dir, err := os.MkdirTemp("", "kms-client-compare-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	t, err := token.Make(ctx, dir, o.Module)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	bench := &bench{options: o, token: t}
	if bench.servers, err = servers(ctx, o, t, o.Module, "kms"); err != nil {
		return nil, err
	}

	report = &Report{Machine: describeMachine()}
	for number := range o.Rounds {
		fmt.Fprintf(o.Log, "round %d of %d\n", number+1, o.Rounds)
		round, err := bench.round(ctx, number)
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", number+1, err)
		}
		report.Rounds = append(report.Rounds, *round)
	}
	report.Rows = summarize(report.Rounds)
	report.Raw = medianRaw(report.Rounds)
	if o.Spy == "" {
		fmt.Fprintln(o.Log, "PKCS#11 calls are not counted: there is no pkcs11-spy (Debian: opensc-pkcs11)")
		return report, nil
	}
	fmt.Fprintln(o.Log, "counting PKCS#11 calls")
	report.Calls, err = countCalls(ctx, o, t)
	return report, err
}
