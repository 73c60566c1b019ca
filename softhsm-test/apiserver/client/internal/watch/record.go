package watch

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"k8s.io/kms/pkg/service"
)

// A plugin that is gone for long fails many calls in the same way.
const failuresTold = 200

// record counts, and writes the events. Times are counted from the event "ready".
type record struct {
	mutex sync.Mutex
	to    io.Writer
	err   error // why no more events can be written
	begun time.Time

	good         int
	failed       map[string]int // by code
	failedInAll  int
	wrongInAll   int
	lastGood     time.Time
	longestGap   time.Duration
	over         bool // what is answered now ends no gap
	told         int
	healthz      string
	statusFailed int
	statusMost   time.Duration
	// Of the Statuses that were answered since the last beat.
	statusMostInBeat time.Duration
}

func newRecord(to io.Writer, begun time.Time) *record {
	return &record{to: to, begun: begun, lastGood: begun, failed: map[string]int{}, healthz: "ok"}
}

type failedEvent struct {
	Event   string  `json:"event"`
	At      float64 `json:"at_ms"`
	Method  string  `json:"method"`
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Took    float64 `json:"took_ms"`
}

type wrongEvent struct {
	Event   string  `json:"event"`
	At      float64 `json:"at_ms"`
	Method  string  `json:"method"`
	Message string  `json:"message"`
}

// beatEvent counts from the start, except for the Status times.
type beatEvent struct {
	Event      string  `json:"event"`
	At         float64 `json:"at_ms"`
	Good       int     `json:"good"`
	Failed     int     `json:"failed"`
	StatusMost float64 `json:"status_ms_max"`
	Healthz    string  `json:"healthz"`
}

type summaryEvent struct {
	Event        string         `json:"event"`
	Good         int            `json:"good"`
	Failed       map[string]int `json:"failed"`
	Wrong        int            `json:"wrong"`
	LongestGap   float64        `json:"longest_gap_ms"`
	StatusMost   float64        `json:"status_ms_max"`
	StatusFailed int            `json:"status_failed"`
}

func (r *record) ready() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.write(struct {
		Event string `json:"event"`
	}{"ready"})
}

// call notes an Encrypt or a Decrypt.
func (r *record) call(method string, err error, begun, now time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if err != nil {
		r.failed[status.Code(err).String()]++
		r.failedInAll++
		r.tell(method, err, begun, now)
		return
	}
	r.good++
	r.endGap(now)
}

// status notes a Status.
func (r *record) status(answer *service.StatusResponse, err error, begun, now time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.statusMost = max(r.statusMost, now.Sub(begun))
	r.statusMostInBeat = max(r.statusMostInBeat, now.Sub(begun))
	if err != nil {
		r.statusFailed++
		r.healthz = "Status failed: " + status.Code(err).String()
		r.tell("Status", err, begun, now)
		return
	}
	r.healthz = answer.Healthz
}

func (r *record) wrong(method, message string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.wrongInAll++
	r.write(wrongEvent{"wrong", r.at(time.Now()), method, message})
}

func (r *record) beat(now time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.write(beatEvent{"beat", r.at(now), r.good, r.failedInAll, milliseconds(r.statusMostInBeat), r.healthz})
	r.statusMostInBeat = 0
}

// stopped ends the last gap: nothing new is called from now on.
func (r *record) stopped(now time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.endGap(now)
	r.over = true
}

func (r *record) summary() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.write(summaryEvent{
		"summary", r.good, r.failed, r.wrongInAll,
		milliseconds(r.longestGap), milliseconds(r.statusMost), r.statusFailed,
	})
	if r.err == nil && r.wrongInAll > 0 {
		return ErrWrong
	}
	return r.err
}

func (r *record) endGap(now time.Time) {
	if r.over {
		return
	}
	r.longestGap = max(r.longestGap, now.Sub(r.lastGood))
	r.lastGood = now
}

// tell writes a failure, unless there were many already.
func (r *record) tell(method string, err error, begun, now time.Time) {
	if r.told++; r.told > failuresTold {
		return
	}
	said := status.Convert(err)
	r.write(failedEvent{
		"failed", r.at(now), method, said.Code().String(), said.Message(), milliseconds(now.Sub(begun)),
	})
}

// write sends a whole line at once.
func (r *record) write(event any) {
	if r.err != nil {
		return
	}
	var line []byte
	if line, r.err = json.Marshal(event); r.err == nil {
		_, r.err = r.to.Write(append(line, '\n'))
	}
}

func (r *record) at(now time.Time) float64 { return milliseconds(now.Sub(r.begun)) }

// milliseconds has microseconds behind the point.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
