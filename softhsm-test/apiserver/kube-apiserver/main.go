// The stock kube-apiserver, built from the published Go modules.
//
// The end-to-end test needs a real one. Release binaries come from a download
// site that a test machine may not reach; the Go module proxy it needs anyway.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
