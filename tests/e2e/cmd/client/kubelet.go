package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubelet serves what the apiserver asks a kubelet for on behalf of people. The streams are those of container runtimes; what
// is behind them is made up.
func kubelet(arguments []string) func([]string) any {
	flags := flag.NewFlagSet("kubelet", flag.ExitOnError)
	address := flags.String("address", "", "where to listen")
	cert := flags.String("cert", "", "serving certificate")
	key := flags.String("key", "", "its key")
	_ = flags.Parse(arguments)

	streams, err := newStreams(*address, container{})
	check(err)
	go func() {
		log.Fatal(http.ListenAndServeTLS(*address, *cert, *key, &node{streams}))
	}()
	return func([]string) any { return nil }
}

type node struct {
	streams streams
}

// ServeHTTP knows /containerLogs, /exec, /attach and /portForward, each followed by namespace, pod and container.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	flag := func(name string) bool { return query.Get(name) == "1" || query.Get(name) == "true" }
	var target string
	switch {
	case len(parts) == 4 && parts[0] == "containerLogs":
		writeLog(w, r, flag("follow"))
		return
	case len(parts) == 4 && parts[0] == "exec":
		answer, err := n.streams.GetExec(&runtimeapi.ExecRequest{
			ContainerId: parts[2], Cmd: query["command"], Tty: flag("tty"),
			Stdin: flag("input"), Stdout: flag("output"), Stderr: flag("error"),
		})
		check(err)
		target = answer.Url
	case len(parts) == 4 && parts[0] == "attach":
		answer, err := n.streams.GetAttach(&runtimeapi.AttachRequest{
			ContainerId: parts[2], Tty: flag("tty"),
			Stdin: flag("input"), Stdout: flag("output"), Stderr: flag("error"),
		})
		check(err)
		target = answer.Url
	case len(parts) == 3 && parts[0] == "portForward":
		answer, err := n.streams.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: parts[2]})
		check(err)
		target = answer.Url
	default:
		http.NotFound(w, r)
		return
	}
	// The URL is one of this very server.
	_, path, _ := strings.Cut(strings.TrimPrefix(target, "http://"), "/")
	r.URL.Path = "/" + path
	n.streams.ServeHTTP(w, r)
}

// writeLog writes three lines; followed, one more every tenth of a second for as long as somebody reads.
func writeLog(w http.ResponseWriter, r *http.Request, follow bool) {
	for count := 1; count <= 3 || follow; count++ {
		if _, err := fmt.Fprintf(w, "line %d\n", count); err != nil {
			return
		}
		if count < 3 {
			continue
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// container is any container: a command is repeated on standard output, what comes in goes out, a port is an echo.
type container struct{}

func (container) Exec(_ context.Context, id string, command []string, in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan terminalSize) error {
	_, _ = fmt.Fprintf(out, "%s runs %s\n", id, strings.Join(command, " "))
	if err != nil {
		_, _ = fmt.Fprintln(err, "nothing is wrong")
	}
	if in != nil {
		_, _ = io.Copy(out, in)
	}
	return nil
}

func (c container) Attach(ctx context.Context, id string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan terminalSize) error {
	return c.Exec(ctx, id, []string{"what it ran already"}, in, out, err, tty, resize)
}

func (container) PortForward(_ context.Context, _ string, _ int32, stream io.ReadWriteCloser) error {
	_, err := io.Copy(stream, stream)
	return err
}
