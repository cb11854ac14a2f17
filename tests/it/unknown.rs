//! Parameters that edgehold does not know, in `Accept` and in the query: what is answered to them is kept, for who asks in
//! the same way, and nothing is derived from it or for it.

use apiserver_standin::{Client, Rbac};

use crate::support::{KUBELET, Node, TABLE, change, config_map, event, names, watch_list};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";

/// What client-go 1.38 sends with `DropManagedFields`; servers before it ignore the parameter.
const DROPPING: &str = "application/json;drop=metadata.managedFields";

/// One way to ask with an unknown parameter: what follows the target, and `Accept`.
struct Way {
    query: &'static str,
    accept: &'static str,
}

const WAYS: [Way; 3] = [
    Way {
        query: "",
        accept: DROPPING,
    },
    Way {
        query: "shape=new",
        accept: "application/json",
    },
    Way {
        query: "shape=new&a=b",
        accept: DROPPING,
    },
];

impl Way {
    fn client(&self, node: &Node) -> Client {
        node.kubelet().header("accept", self.accept)
    }

    fn target(&self, target: &str) -> String {
        let joint = if target.contains('?') { '&' } else { '?' };
        if self.query.is_empty() {
            target.to_owned()
        } else {
            format!("{target}{joint}{}", self.query)
        }
    }
}

async fn shop() -> Node {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    node.api.put(config_map("shop", "b", "2"));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_listed_with_an_unknown_parameter_is_for_its_like_alone() {
    for way in WAYS {
        let node = shop().await;
        let client = way.client(&node);
        let online = client.get(&way.target("/api/v1/configmaps")).await;
        assert_eq!(online.status, 200);
        node.cut().await;
        let cached = client.get(&way.target("/api/v1/configmaps?timeout=7s")).await;
        assert_eq!((cached.status, &cached.body), (200, &online.body));
        for derived in [
            SHOP,
            &format!("{SHOP}/a"),
            "/api/v1/configmaps?fieldSelector=metadata.name%3Da",
            "/api/v1/configmaps?labelSelector=!x",
            &format!("{SHOP}/missing"),
        ] {
            let status = client.get(&way.target(derived)).await.status;
            assert_eq!(status, 503, "{derived} from {} {}", way.query, way.accept);
        }
        for target in ["/api/v1/configmaps", &format!("{SHOP}/a")] {
            assert_eq!(
                node.kubelet().get(target).await.status,
                503,
                "{target} as it is known"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_answers_nobody_who_asks_for_more_than_is_known() {
    let node = shop().await;
    assert_eq!(node.kubelet().get("/api/v1/configmaps").await.status, 200);
    assert_eq!(node.kubelet().get(&format!("{SHOP}/a")).await.status, 200);
    node.cut().await;
    for way in WAYS {
        for target in ["/api/v1/configmaps", SHOP, &format!("{SHOP}/a")] {
            let status = way.client(&node).get(&way.target(target)).await.status;
            assert_eq!(status, 503, "{target} {} {}", way.query, way.accept);
        }
    }
    // Who also names plain JSON takes it.
    let either = node
        .kubelet()
        .header("accept", &format!("{DROPPING},application/json"));
    assert_eq!(either.get(SHOP).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_an_unknown_parameter_drives_its_own_view_alone() {
    for way in WAYS {
        let node = shop().await;
        let client = way.client(&node);
        assert_eq!(node.kubelet().get(SHOP).await.status, 200);
        let mut connection = client.connect().await.unwrap();
        let mut watch = connection.lines(&way.target(&watch_list(SHOP))).await.unwrap();
        for _ in 0..3 {
            event(&mut watch).await;
        }
        node.api.put(config_map("shop", "c", "3"));
        assert_eq!(change(&mut watch).await, ("ADDED".to_owned(), "c".to_owned()));
        node.cut().await;
        let own = client.get(&way.target(SHOP)).await;
        assert_eq!(names(&own.json()), ["a", "b", "c"]);
        assert_eq!(names(&node.kubelet().get(SHOP).await.json()), ["a", "b"]);
        // It is held, and goes on where it was.
        node.api.put(config_map("shop", "d", "4"));
        node.heal().await;
        assert_eq!(change(&mut watch).await, ("ADDED".to_owned(), "d".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_an_object_away_takes_every_form_of_it() {
    let node = shop().await;
    let object = format!("{SHOP}/a");
    for way in WAYS {
        assert_eq!(way.client(&node).get(&way.target(&object)).await.status, 200);
        assert_eq!(way.client(&node).get(&way.target(SHOP)).await.status, 200);
    }
    assert_eq!(
        node.kubelet().send("DELETE", &object, "").await.unwrap().status,
        200
    );
    node.api.set_rbac(Rbac::deny_all());
    assert_eq!(node.kubelet().get(SHOP).await.status, 403);
    node.settle().await;
    node.cut().await;
    for way in WAYS {
        // That it is gone is known of the object, and not of what an unknown parameter makes of it.
        let gone = if way.query.is_empty() { 404 } else { 503 };
        for (target, expected) in [(object.as_str(), gone), (SHOP, 503)] {
            let status = way.client(&node).get(&way.target(target)).await.status;
            assert_eq!(
                status, expected,
                "{KUBELET} {target} {} {}",
                way.query, way.accept
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_with_other_rows_do_not_replace_each_other() {
    let node = shop().await;
    let kubectl = node.kubelet().header("accept", TABLE);
    for target in [SHOP, &format!("{SHOP}/a")] {
        let mut online = Vec::new();
        for rows in ["", "?includeObject=None", "?includeObject=Object"] {
            let target = format!("{target}{rows}");
            let table = kubectl.get(&target).await;
            assert_eq!((table.status, &table.json()["kind"]), (200, &"Table".into()));
            online.push((target, table.body));
        }
        assert!(online[0].1 != online[1].1 && online[0].1 != online[2].1);
        node.settle().await;
        node.cut().await;
        for (target, body) in &online {
            let cached = kubectl.get(target).await;
            assert_eq!((cached.status, &cached.body), (200, body), "{target}");
        }
        // The same as without, and no other.
        let default = kubectl.get(&format!("{target}?includeObject=Metadata")).await;
        assert_eq!((default.status, &default.body), (200, &online[0].1));
        node.heal().await;
    }
}

/// Clients generated from OpenAPI (Python, Java) end the paths of discovery with a slash.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_trailing_slash_is_the_same_offline_and_is_forwarded_as_it_came() {
    let node = shop().await;
    let object = format!("{SHOP}/a");
    let paths = [
        "/version",
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        SHOP,
        object.as_str(),
    ];
    let mut online = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let read = if at % 2 == 0 {
            (*path).to_owned()
        } else {
            format!("{path}/")
        };
        let answer = node.kubelet().get(&read).await;
        assert_eq!(answer.status, 200, "{read}");
        assert_eq!(node.asked("GET", &read), 1, "{read}");
        online.push((*path, answer.body));
    }
    node.settle().await;
    node.cut().await;
    for (path, body) in online {
        for target in [
            path.to_owned(),
            format!("{path}/"),
            format!("{path}/?timeout=32s"),
        ] {
            let cached = node.kubelet().get(&target).await;
            assert_eq!((cached.status, &cached.body), (200, &body), "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_by_a_path_with_a_trailing_slash_is_not_told_any_more() {
    let node = shop().await;
    let object = format!("{SHOP}/a");
    assert_eq!(node.status(&object).await, 200);
    node.settle().await;
    let deleted = node
        .kubelet()
        .send("DELETE", &format!("{object}/"), "")
        .await
        .unwrap();
    assert_eq!(deleted.status, 200);
    node.settle().await;
    node.cut().await;
    assert_ne!(node.status(&object).await, 200);
}
