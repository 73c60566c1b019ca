// Command raw-loop measures what a token can do when nothing is around it: no
// gRPC, no queue, just PKCS#11 calls in a loop, in one process and in several.
//
// Every process prints nothing but its count; the first one adds them up and
// prints JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

type options struct {
	module, tokenLabel, pinFile, keyLabel string
	operation                             string
	processes                             int
	duration                              time.Duration
	child                                 bool
}

// Result is what stdout shows.
type Result struct {
	Operation string  `json:"operation"`
	Processes int     `json:"processes"`
	Seconds   float64 `json:"seconds"`
	Calls     uint64  `json:"calls"`
	PerSecond float64 `json:"per_second"`
}

func main() {
	o := parse()
	var err error
	if o.child {
		err = runChild(o)
	} else {
		err = runParent(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "raw-loop:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	flag.StringVar(&o.module, "module", "", "path of the PKCS#11 module")
	flag.StringVar(&o.tokenLabel, "token-label", "", "label of the token")
	flag.StringVar(&o.pinFile, "pin-file", "", "file that holds the user PIN")
	flag.StringVar(&o.keyLabel, "key-label", "raw-loop-kek", "label of the AES key; made when absent")
	flag.StringVar(&o.operation, "operation", "wrap", strings.Join(operationNames, ", "))
	flag.IntVar(&o.processes, "processes", 1, "how many processes at once")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "how long")
	flag.BoolVar(&o.child, "child", false, "internal: be one of the processes")
	flag.Parse()
	for _, name := range []string{"module", "token-label", "pin-file"} {
		if flag.Lookup(name).Value.String() == "" || flag.NArg() > 0 || o.processes < 1 {
			flag.Usage()
			os.Exit(2)
		}
	}
	return o
}

func runParent(o options) error {
	// Made here, so that two children do not both make it.
	token, err := openToken(o)
	if err != nil {
		return err
	}
	token.close()

	result, err := runChildren(o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
