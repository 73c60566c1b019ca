package cluster

import "time"

// Every wait has an end. They are wide: the machine may be busy with a build.
const (
	pluginLimit = 30 * time.Second

	// kube-apiserver trusts a good answer for 20 s; then a call has to fail.
	unhealthyLimit = 90 * time.Second

	// It dials again with growing pauses, so this depends on how long the
	// plugin was away.
	healthyLimit = 2 * time.Minute
)
