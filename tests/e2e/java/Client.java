// fabric8's kubernetes-client as a pod uses it: KUBERNETES_SERVICE_HOST and _PORT, and the files CA and TOKEN named here.
//
//     java -cp ... Client.java CA TOKEN NAMESPACE
//
// keeps an informer of the namespace's ConfigMaps, which watches over WebSocket. Each line on standard input is a command, each
// line on standard output its answer, as JSON, as of the Python client beside this.

import io.fabric8.kubernetes.api.model.ConfigMap;
import io.fabric8.kubernetes.api.model.ConfigMapBuilder;
import io.fabric8.kubernetes.api.model.HasMetadata;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.ConfigBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.fabric8.kubernetes.client.informers.ResourceEventHandler;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.TreeSet;
import java.util.stream.Collectors;

public class Client {
    private static final Collection<String> held = Collections.synchronizedSet(new TreeSet<>());
    private static final Collection<String> deleted = Collections.synchronizedList(new ArrayList<>());

    public static void main(String[] args) throws Exception {
        String host = System.getenv("KUBERNETES_SERVICE_HOST");
        Config config = new ConfigBuilder(Config.empty())
                .withMasterUrl("https://" + host + ":" + System.getenv("KUBERNETES_SERVICE_PORT"))
                .withCaCertFile(args[0])
                .withOauthToken(Files.readString(Path.of(args[1])).trim())
                .withNamespace(args[2])
                // Its patience with 503 is its own matter: eight seconds and more for each request.
                .withRequestRetryBackoffLimit(0)
                .build();
        try (KubernetesClient client = new KubernetesClientBuilder().withConfig(config).build()) {
            client.configMaps().inform(new Follower());
            BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
            for (String line; (line = commands.readLine()) != null; ) {
                System.out.println(answer(client, line.trim().split(" ")));
                System.out.flush();
            }
        }
    }

    private static String answer(KubernetesClient client, String[] words) {
        if (words[0].equals("seen")) {
            return "{\"held\": " + json(held) + ", \"deleted\": " + json(deleted) + "}";
        }
        try {
            return "{\"names\": " + json(perform(client, words)) + ", \"code\": 200}";
        } catch (KubernetesClientException error) {
            return "{\"names\": [], \"code\": " + error.getCode() + "}";
        }
    }

    private static Collection<String> perform(KubernetesClient client, String[] words) {
        switch (words[0]) {
            case "list":
                return names(client.configMaps().list().getItems());
            case "secrets":
                return names(client.secrets().list().getItems());
            case "create":
                ConfigMap made = new ConfigMapBuilder().withNewMetadata().withName(words[1]).endMetadata().build();
                return names(List.of(client.resource(made).create()));
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static Collection<String> names(List<? extends HasMetadata> items) {
        return items.stream().map(item -> item.getMetadata().getName()).collect(Collectors.toList());
    }

    // Names of Kubernetes need no escapes.
    private static String json(Collection<String> names) {
        return List.copyOf(names).stream().collect(Collectors.joining("\", \"", "[\"", "\"]")).replace("[\"\"]", "[]");
    }

    private static class Follower implements ResourceEventHandler<ConfigMap> {
        @Override
        public void onAdd(ConfigMap object) {
            held.add(object.getMetadata().getName());
        }

        @Override
        public void onUpdate(ConfigMap before, ConfigMap object) {
            held.add(object.getMetadata().getName());
        }

        @Override
        public void onDelete(ConfigMap object, boolean unknown) {
            deleted.add(object.getMetadata().getName());
        }
    }
}
