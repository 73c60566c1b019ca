package rotation

import (
	"crypto/rand"
	"errors"
	"fmt"
	randv2 "math/rand/v2"
	"slices"
	"sync"

	"p11-kms.test/client/internal/controlplane"
)

// object is one Secret, and all that was ever sent to be its value.
type object struct {
	name string

	mutex   sync.Mutex
	values  []string // oldest first
	known   int      // the number of the newest that was acknowledged
	version string   // of that one; empty when none was
	writing bool     // by one writer at a time
}

// next is a new value, which replaces that version.
func (o *object) next() (s controlplane.Secret, number int, replaces string) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.values = append(o.values, rand.Text())
	number = len(o.values) - 1
	return controlplane.Secret{Name: o.name, Value: o.values[number]}, number, o.version
}

func (o *object) acknowledge(number int, version string) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.known, o.version = number, version
}

// now is what a reader has to see from now on, or something newer.
func (o *object) now() (number int, version string) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.known, o.version
}

// check holds what was read against what was known when the read began.
func (o *object) check(value string, known int) error {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	switch number := slices.Index(o.values, value); {
	case number < 0:
		return errors.New("it has a value that was never written")
	case number < known:
		return fmt.Errorf("it has value %d of %d, and %d was acknowledged", number, len(o.values)-1, known)
	default:
		return nil
	}
}

// everySecret is the object with each of its values.
func (o *object) everySecret() []controlplane.Secret {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	var all []controlplane.Secret
	for _, value := range o.values {
		all = append(all, controlplane.Secret{Name: o.name, Value: value})
	}
	return all
}

// book knows all objects.
type book struct {
	mutex   sync.Mutex
	made    int
	objects []*object // that are there for certain
}

// fresh is one that nobody has written yet.
func (b *book) fresh(kind string) *object {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.made++
	return &object{name: fmt.Sprintf("%s-%04d", kind, b.made), writing: true}
}

// any is one to read; nil if there is none.
func (b *book) any() *object {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if len(b.objects) == 0 {
		return nil
	}
	return b.objects[randv2.IntN(len(b.objects))]
}

// borrow is one to write, old or new, that is to be given back.
func (b *book) borrow() *object {
	if o := b.any(); o != nil && randv2.IntN(newOneIn) > 0 {
		o.mutex.Lock()
		defer o.mutex.Unlock()
		if !o.writing {
			o.writing = true
			return o
		}
	}
	return b.fresh("secret")
}

// giveBack takes it among the others once it is there for certain.
func (b *book) giveBack(o *object) {
	o.mutex.Lock()
	o.writing = false
	exists := o.version != ""
	o.mutex.Unlock()

	b.mutex.Lock()
	defer b.mutex.Unlock()
	if exists && !slices.Contains(b.objects, o) {
		b.objects = append(b.objects, o)
	}
}

func (b *book) all() []*object {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return slices.Clone(b.objects)
}
