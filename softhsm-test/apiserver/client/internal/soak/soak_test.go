package soak

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"p11-kms.test/client/internal/procfs"
)

func size(megabytes, descriptors int) procfs.Size {
	return procfs.Size{RSS: int64(megabytes) << 20, Threads: 2, Descriptors: descriptors}
}

func TestReport(t *testing.T) {
	s := seen{workers: map[int]*Worker{}}
	s.add(size(50, 9), map[int]procfs.Size{1: size(10, 5)}, 0)
	s.add(size(11, 12), map[int]procfs.Size{1: size(12, 5)}, 0)
	s.begin()
	s.add(size(14, 30), map[int]procfs.Size{1: size(13, 6), 2: size(20, 5)}, 3)
	s.add(size(12, 13), map[int]procfs.Size{2: size(21, 5)}, 0)
	r := s.report()
	if r.Front.First != size(11, 12) || r.Front.Highest != size(14, 30) || r.FrontLast != size(12, 13) {
		t.Errorf("the front: %+v, last %+v", r.Front, r.FrontLast)
	}
	if r.Workers != 2 || r.Replaced != 1 || r.WorkerGrowth != 3<<20 || r.WorkerFirst != size(10, 5) || r.WorkerMost != size(21, 6) {
		t.Errorf("the workers: %+v", r)
	}
	if r.Zombies != 0 {
		t.Errorf("%d zombies, and the last sample has none", r.Zombies)
	}
}

func TestJudge(t *testing.T) {
	good := Report{
		Operations: operationsThatReplace, Workers: 3, Replaced: 1, WorkerGrowth: mostGrowth,
		Front: Worker{First: size(10, 12)}, FrontLast: size(14, 11),
	}
	if got := judge(&good); len(got) != 0 {
		t.Errorf("a good one: %q", got)
	}
	for _, test := range []struct {
		want  string
		spoil func(*Report)
	}{
		{"the front has grown by 5.0 MB", func(r *Report) { r.FrontLast.RSS += 1 << 20 }},
		{"a worker grew by", func(r *Report) { r.WorkerGrowth++ }},
		{"had 12 descriptors and has 14", func(r *Report) { r.FrontLast.Descriptors = 14 }},
		{"had 12 descriptors and has 10", func(r *Report) { r.FrontLast.Descriptors = 10 }},
		{"2 children have ended", func(r *Report) { r.Zombies = 2 }},
		{"no worker was replaced", func(r *Report) { r.Replaced = 0 }},
		{"no worker was seen", func(r *Report) { r.Workers = 0 }},
	} {
		r := good
		test.spoil(&r)
		if got := judge(&r); len(got) != 1 || !strings.Contains(got[0], test.want) {
			t.Errorf("%s: got %q", test.want, got)
		}
	}
	short := good
	short.Operations, short.Replaced = operationsThatReplace-1, 0
	if got := judge(&short); len(got) != 0 {
		t.Errorf("too short to replace a worker: %q", got)
	}
}

func TestLogins(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	l := logins{file: file, pids: map[int]bool{}}
	write("the module says hello\n" + `{"message":"the worker is logged in","pid":41}` + "\n" + `{"message":"the worker is`)
	if err := l.look(); err != nil || len(l.pids) != 1 || !l.pids[41] {
		t.Errorf("got %v, %v", l.pids, err)
	}
	write(` logged in","pid":42}` + "\n" + `{"message":"something else","pid":43}` + "\n")
	if err := l.look(); err != nil || len(l.pids) != 2 || !l.pids[42] {
		t.Errorf("got %v, %v", l.pids, err)
	}
}
