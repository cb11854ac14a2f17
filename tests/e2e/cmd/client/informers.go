package main

import (
	"context"
	"flag"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// held is what one informer holds: object name to "resourceVersion value".
type held struct {
	Synced bool              `json:"synced"`
	Items  map[string]string `json:"items"`
}

func informers(arguments []string) func([]string) any {
	flags := flag.NewFlagSet("informers", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig file")
	namespace := flags.String("namespace", "", "namespace to follow")
	klog.InitFlags(flags)
	_ = flags.Parse(arguments)

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	histories := map[string]*history{}
	configured := func(name string) *rest.Config {
		histories[name] = newHistory()
		own := rest.CopyConfig(config)
		own.Wrap(histories[name].listen)
		return own
	}
	typedClient, err := kubernetes.NewForConfig(withProtobuf(configured("typed")))
	check(err)
	dynamicClient, err := dynamic.NewForConfig(configured("dynamic"))
	check(err)
	metadataClient, err := metadata.NewForConfig(configured("metadata"))
	check(err)

	typed := clientinformers.NewSharedInformerFactoryWithOptions(typedClient, 0, clientinformers.WithNamespace(*namespace))
	selectedClient, err := kubernetes.NewForConfig(withProtobuf(configured("selected")))
	check(err)
	selected := clientinformers.NewSharedInformerFactoryWithOptions(selectedClient, 0, clientinformers.WithNamespace(*namespace),
		clientinformers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "colour=red" }))
	untyped := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamicClient, 0, *namespace, nil)
	partial := metadatainformer.NewFilteredSharedInformerFactory(metadataClient, 0, *namespace, nil)
	all := map[string]cache.SharedIndexInformer{
		"typed":    typed.Core().V1().ConfigMaps().Informer(),
		"selected": selected.Core().V1().ConfigMaps().Informer(),
		"dynamic":  untyped.ForResource(configMaps).Informer(),
		"metadata": partial.ForResource(configMaps).Informer(),
	}
	for name, informer := range all {
		_, err := informer.AddEventHandler(histories[name].handler())
		check(err)
	}
	forever := context.Background().Done()
	typed.Start(forever)
	selected.Start(forever)
	untyped.Start(forever)
	partial.Start(forever)

	return func(words []string) any {
		answer := map[string]any{}
		for name, informer := range all {
			if len(words) == 1 && words[0] == "history" {
				answer[name] = histories[name].tell()
			} else {
				answer[name] = holds(informer)
			}
		}
		return answer
	}
}

func withProtobuf(config *rest.Config) *rest.Config {
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config
}

func holds(informer cache.SharedIndexInformer) held {
	items := map[string]string{}
	for _, object := range informer.GetStore().List() {
		accessor, err := meta.Accessor(object)
		check(err)
		items[accessor.GetName()] = accessor.GetResourceVersion() + value(object)
	}
	return held{Synced: informer.HasSynced(), Items: items}
}

func value(object any) string {
	switch object := object.(type) {
	case *corev1.ConfigMap:
		return " " + object.Data["v"]
	case *unstructured.Unstructured:
		text, _, err := unstructured.NestedString(object.Object, "data", "v")
		check(err)
		return " " + text
	default:
		return ""
	}
}
