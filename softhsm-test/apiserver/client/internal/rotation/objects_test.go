package rotation

import (
	"strings"
	"testing"
)

func TestAReaderSeesWhatWasAcknowledgedOrNewer(t *testing.T) {
	o := &object{name: "secret"}
	var values []string
	for range 3 {
		s, _, _ := o.next()
		values = append(values, s.Value)
	}
	o.acknowledge(1, "17")
	known, version := o.now()
	if known != 1 || version != "17" {
		t.Fatalf("it has %d, %q", known, version)
	}
	for _, test := range []struct{ value, wrong string }{
		{values[0], "it has value 0 of 2, and 1 was acknowledged"},
		{values[1], ""},
		{values[2], ""}, // written, and the answer is under way
		{"another", "never written"},
		{"", "never written"},
	} {
		err := o.check(test.value, known)
		if (err == nil) != (test.wrong == "") || (err != nil && !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("%q: %v", test.value, err)
		}
	}
}

func TestAnObjectIsReadOnceItIsThere(t *testing.T) {
	b := &book{}
	o := b.borrow()
	_, number, replaces := o.next()
	if b.giveBack(o); b.any() != nil || replaces != "" {
		t.Errorf("one whose write has failed is to be read: %v, %q", b.any(), replaces)
	}
	o.acknowledge(number, "1")
	b.giveBack(o)
	b.giveBack(o)
	if all := b.all(); len(all) != 1 || b.any() != o {
		t.Errorf("there are %d", len(all))
	}
}

func TestTwoWritersNeverHaveOneObject(t *testing.T) {
	b := &book{}
	o := b.fresh("secret")
	_, number, _ := o.next()
	o.acknowledge(number, "1")
	b.giveBack(o)
	held := map[*object]bool{}
	for range 100 {
		o := b.borrow()
		if held[o] {
			t.Fatal("one object was lent twice")
		}
		held[o] = true
	}
	if !held[o] {
		t.Error("the old one was never written again")
	}
}
