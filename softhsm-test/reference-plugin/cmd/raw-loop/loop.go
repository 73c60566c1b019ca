package main

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "loop.h"
import "C"

import (
	"fmt"
	"slices"
	"time"
	"unsafe"
)

// What loop.c can do, in the order of its enum.
var operationNames = []string{"wrap", "unwrap", "gcm-encrypt", "gcm-decrypt"}

// loop does one operation over and over and returns how often. It runs in C:
// crossing from Go for every PKCS#11 call would be measured too.
func (t *token) loop(operation string, duration time.Duration) (uint64, error) {
	number := slices.Index(operationNames, operation)
	if number < 0 {
		return 0, fmt.Errorf("unknown operation %q", operation)
	}
	path := C.CString(t.path)
	defer C.free(unsafe.Pointer(path))

	var count C.ulong
	var failed *C.char
	result := C.raw_loop(path, C.ulong(t.session), C.ulong(t.key), C.int(number),
		C.double(duration.Seconds()), &count, &failed)
	if result != 0 {
		return 0, fmt.Errorf("%s: result %#x", C.GoString(failed), uint64(result))
	}
	return uint64(count), nil
}
