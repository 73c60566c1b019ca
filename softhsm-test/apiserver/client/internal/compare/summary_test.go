package compare

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestMedian(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("of three: %v", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("of four: %v", got)
	}
}

func TestTheRatioIsTakenWithinARound(t *testing.T) {
	run := func(pss int64) ServerRun { return ServerRun{PSS: pss} }
	var rounds []Round
	// A machine that gets slower from round to round: the ratio stays.
	for _, base := range []int64{100, 200, 800} {
		rounds = append(rounds, Round{Servers: map[string]ServerRun{p11kmsName: run(base / 2), referenceName: run(base)}})
	}
	got := row(rounds, "memory", "B", atMost(0.5), func(r ServerRun) float64 { return float64(r.PSS) })
	if math.Abs(got.Ratio-0.5) > 1e-9 || got.P11KMS != 100 || got.Reference != 200 || !*got.Reached {
		t.Errorf("got %+v", got)
	}
	if atLeast(0.6).reachedBy(got.Ratio) {
		t.Error("0.5 is not at least 0.6")
	}
}

func TestNamesBetween(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	before := "0: C_Login\n"
	counted := "1: C_Encrypt\n[in] pData\n    0 00000000  2: C_Sign\nReturned:  0 CKR_OK\n\n2: C_Encrypt\n12: C_WrapKey\n"
	if err := os.WriteFile(trace, []byte(before+counted+"13: C_Logout\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := namesBetween(trace, int64(len(before)), int64(len(before)+len(counted)))
	if err != nil || len(got) != 2 || got["C_Encrypt"] != 2 || got["C_WrapKey"] != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}
