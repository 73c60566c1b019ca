package controlplane

import (
	"context"
	"time"
)

// Repeat makes a request every so often until ctx ends. It gives each a context that
// outlives ctx: one that is cut off is neither a success nor a failure.
func Repeat(ctx context.Context, every time.Duration, request func(context.Context)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			request(context.WithoutCancel(ctx))
		}
	}
}
