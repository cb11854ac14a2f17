package main

import (
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// history is what happened to one informer.
type history struct {
	mutex sync.Mutex
	// events are "OPERATION NAME RESOURCEVERSION" with the operations I (in the first list), A, U, D and X (found to be
	// gone by a later list), in the order in which handlers heard of them.
	events []string
	// lists are the times, in milliseconds of Unix time, at which a list or a watch-list was answered with success.
	lists []int64
	types map[string]int
}

func newHistory() *history {
	return &history{events: []string{}, lists: []int64{}, types: map[string]int{}}
}

func (h *history) tell() any {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return map[string]any{
		"events": append([]string{}, h.events...), "lists": append([]int64{}, h.lists...), "types": h.types,
	}
}

func (h *history) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(object any, initial bool) {
			if initial {
				h.note("I", object)
			} else {
				h.note("A", object)
			}
		},
		UpdateFunc: func(_, object any) { h.note("U", object) },
		DeleteFunc: func(object any) {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				h.note("X", gone.Obj)
			} else {
				h.note("D", object)
			}
		},
	}
}

func (h *history) note(operation string, object any) {
	accessor, err := meta.Accessor(object)
	check(err)
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.events = append(h.events, operation+" "+accessor.GetName()+" "+accessor.GetResourceVersion())
}

// listen wraps the informer's transport.
func (h *history) listen(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(request)
		if err == nil && answer.StatusCode == http.StatusOK {
			h.answered(request, answer.Header.Get("Content-Type"))
		}
		return answer, err
	})
}

func (h *history) answered(request *http.Request, encoding string) {
	query := request.URL.Query()
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.types[encoding]++
	fromStart := query.Get("watch") == "" || query.Get("sendInitialEvents") == "true"
	if fromStart && query.Get("continue") == "" {
		h.lists = append(h.lists, time.Now().UnixMilli())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
