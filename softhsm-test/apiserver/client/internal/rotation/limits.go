package rotation

import "time"

// Every wait has an end. They are wide: the machine may be busy with a build.
const (
	commandLimit = time.Minute
	daemonLimit  = 30 * time.Second

	// Beyond the activation delay.
	activeLimit = time.Minute

	// kube-apiserver trusts a Status for 20 s where somebody asks for its health,
	// and dials a plugin that was away with growing pauses.
	apiserverLimit = 2 * time.Minute

	lookEvery = 20 * time.Millisecond
)

const (
	// How often each daemon looks at the token.
	scanInterval = time.Second

	// A delay that is shorter than this cannot be hit.
	shortestDelay = time.Second
)

// Three kube-apiservers share the machine with all the rest.
const (
	writeEvery = 250 * time.Millisecond // on each node
	readEvery  = 100 * time.Millisecond // on each node, from etcd and from the cache
	askEvery   = time.Second            // for each kube-apiserver's health

	// Of so many writes one makes a new object.
	newOneIn    = 3
	firstCount  = 20
	writeTries  = 40
	statusEvery = 20 * time.Millisecond
	// One of so many Statuses has an Encrypt behind it.
	encryptOneIn = 5
)
