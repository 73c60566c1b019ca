package controlplane

import "time"

// Every wait has an end. They are wide: the machine may be busy with a build.
const (
	etcdLimit      = 30 * time.Second
	apiserverLimit = 3 * time.Minute

	// It waits for open requests and for its own parts to stop.
	apiserverGrace = 90 * time.Second

	requestTimeout = 15 * time.Second
)
