package procfs

import (
	"os"
	"testing"
)

func TestParseStatus(t *testing.T) {
	got, err := parseStatus("Name:\tp11-kms\nVmRSS:\t    1024 kB\nThreads:\t3\n")
	if want := (Size{RSS: 1 << 20, Threads: 3}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, text := range []string{"", "Threads:\t1\n", "VmRSS:\tx kB\nThreads:\t1\n", "Name:\tzombie\nState:\tZ\n"} {
		if got, err := parseStatus(text); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestOurOwnSize(t *testing.T) {
	before, err := SizeOf(os.Getpid())
	if err != nil || before.RSS < 1<<20 || before.Threads < 1 {
		t.Fatalf("got %+v, %v", before, err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	after, err := SizeOf(os.Getpid())
	if err != nil || after.Descriptors != before.Descriptors+1 {
		t.Errorf("%d descriptors, then %d, %v", before.Descriptors, after.Descriptors, err)
	}
}
