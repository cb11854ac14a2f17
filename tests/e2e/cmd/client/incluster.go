package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// outcome is the answer to one request: names, or the apiserver's Status, or an error that is none (code 0).
type outcome struct {
	Names  []string `json:"names"`
	Code   int32    `json:"code"`
	Reason string   `json:"reason"`
	Error  string   `json:"error"`
}

func inCluster(arguments []string) func([]string) any {
	flags := flag.NewFlagSet("incluster", flag.ExitOnError)
	ca := flags.String("ca", "", "the file that a pod has as ca.crt")
	token := flags.String("token", "", "the file that a pod has as token")
	_ = flags.Parse(arguments)

	client, err := dynamic.NewForConfig(&rest.Config{
		Host:            "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")),
		TLSClientConfig: rest.TLSClientConfig{CAFile: *ca},
		BearerTokenFile: *token,
	})
	check(err)
	return func(words []string) any {
		names, err := perform(client, words)
		return describe(names, err)
	}
}

func perform(client dynamic.Interface, words []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	in := func(resource, namespace string) dynamic.ResourceInterface {
		return client.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource}).Namespace(namespace)
	}
	switch {
	case len(words) == 3 && words[0] == "list":
		list, err := in(words[1], words[2]).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, item := range list.Items {
			names = append(names, item.GetName())
		}
		return names, nil
	case len(words) == 4 && words[0] == "get":
		object, err := in(words[1], words[2]).Get(ctx, words[3], metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return []string{object.GetName()}, nil
	case len(words) == 3 && words[0] == "create":
		made := &unstructured.Unstructured{}
		made.SetAPIVersion("v1")
		made.SetKind("ConfigMap")
		made.SetName(words[2])
		object, err := in("configmaps", words[1]).Create(ctx, made, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		return []string{object.GetName()}, nil
	}
	return nil, errors.New("no such command")
}

func describe(names []string, err error) outcome {
	if err == nil {
		return outcome{Names: names, Code: 200}
	}
	failed := outcome{Error: err.Error()}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		failed.Code = status.Status().Code
		failed.Reason = string(status.Status().Reason)
	}
	return failed
}

func split(line string) []string {
	return strings.Fields(line)
}
