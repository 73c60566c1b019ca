package procfs

import (
	"os"
	"testing"
	"time"
)

func TestParseOfANameWithBracketsAndBlanks(t *testing.T) {
	line := "42 (a) b (c) S 7 41 41 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 99 0 0\n"
	want := Process{PID: 42, Parent: 7, Group: 41, State: 'S', Own: 2 * time.Second, Children: 500 * time.Millisecond}
	if got, err := parse(line); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseRefusesWhatIsNoStatLine(t *testing.T) {
	for _, line := range []string{"", "42 (a", "42 (a) S 1 2", "42 (a) S x 41 41 0 -1 0 1 2 3 4 1 5 3 2 20 0"} {
		if got, err := parse(line); err == nil {
			t.Errorf("%q: got %+v", line, got)
		}
	}
}

func TestOurselves(t *testing.T) {
	self, err := Read(os.Getpid())
	if err != nil || self.PID != os.Getpid() || self.Parent != os.Getppid() {
		t.Errorf("got %+v, %v", self, err)
	}
	if pss, err := PSS(os.Getpid()); err != nil || pss < 1<<20 {
		t.Errorf("a PSS of %d, %v", pss, err)
	}
	found, err := Descendants(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		if p.PID == os.Getpid() {
			return
		}
	}
	t.Error("we are not among our parent's descendants")
}
