//! The examples of the Kubernetes documentation, and what `apimachinery/pkg/labels` makes of odd texts.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> LabelSelector {
    LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn selects(text: &str, labels: &[(&str, &'static str)]) -> bool {
    let value = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, v)| *v);
    parse(text).matches(value)
}

const FRONTEND: &[(&str, &str)] = &[
    ("environment", "production"),
    ("tier", "frontend"),
    ("partition", "customerA"),
];
const QA_BACKEND: &[(&str, &str)] = &[("environment", "qa"), ("tier", "backend")];
const NOTHING: &[(&str, &str)] = &[];

/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>
#[test]
fn the_documentation_s_examples_select_what_it_says() {
    for (text, frontend, qa_backend, nothing) in [
        ("", true, true, true),
        ("environment = production", true, false, false),
        ("environment=production,tier=frontend", true, false, false),
        ("environment=production,tier!=frontend", false, false, false),
        ("tier != frontend", false, true, true),
        ("environment in (production, qa)", true, true, false),
        ("tier notin (frontend, backend)", false, false, true),
        ("partition", true, false, false),
        ("!partition", false, true, true),
        ("partition,environment notin (qa)", true, false, false),
        (
            "partition in (customerA, customerB),environment!=qa",
            true,
            false,
            false,
        ),
        (
            "environment in (production),tier in (frontend)",
            true,
            false,
            false,
        ),
        ("environment,environment notin (frontend)", true, true, false),
    ] {
        let found = [FRONTEND, QA_BACKEND, NOTHING].map(|labels| selects(text, labels));
        assert_eq!(found, [frontend, qa_backend, nothing], "{text}");
    }
}

/// EdgeMesh's selector for services.
#[test]
fn a_prefixed_key_may_be_absent() {
    let text = "!service.edgemesh.kubeedge.io/service-proxy-name,!service.kubernetes.io/headless";
    assert!(selects(text, NOTHING));
    assert!(!selects(text, &[("service.kubernetes.io/headless", "")]));
}

#[test]
fn integers_are_compared_as_integers() {
    for (text, value, expected) in [
        ("a>6", "7", true),
        ("a>6", "10", true),
        ("a>6", "6", false),
        ("a<6", "5", true),
        ("a < 007", "6", true),
        ("a>6", "x", false),
        ("a>6", "", false),
        ("a>6", "99999999999999999999", false),
    ] {
        assert_eq!(selects(text, &[("a", value)]), expected, "{text} {value}");
    }
    assert!(!selects("a>6", NOTHING) && !selects("a<6", NOTHING));
}

#[test]
fn in_and_notin_are_words_where_no_operator_is_due() {
    assert!(selects("in in (in)", &[("in", "in")]));
    assert!(selects("a=notin", &[("a", "notin")]));
    assert!(selects("in", &[("in", "")]) && selects("!notin", NOTHING));
}

#[test]
fn empty_values_are_values() {
    for text in ["a=", "a==", "a in ()", "a in (,)", "a in (,x)", "a in (x,,y)"] {
        assert!(selects(text, &[("a", "")]), "{text}");
        assert!(!selects(text, NOTHING), "{text}");
    }
    assert!(!selects("a notin (,x)", &[("a", "")]));
}

#[test]
fn spellings_of_one_selection_have_one_text() {
    for (text, canonical) in [
        ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
        (" b\t==\n1 , !a ", "!a,b=1"),
        ("b,a,b", "a,b"),
        ("a in (x,x)", "a in (x)"),
        ("c>1,b<2", "b<2,c>1"),
        ("", ""),
    ] {
        // `!a` sorts by its key, as upstream sorts.
        assert_eq!(parse(text).to_string(), canonical);
    }
}

#[test]
fn what_upstream_refuses_is_refused() {
    use SelectorError::{Key, Syntax, Value};
    let long = "k".repeat(64);
    for (text, error) in [
        (",", Syntax),
        ("a,", Syntax),
        (",a", Syntax),
        ("a b", Syntax),
        ("a in", Syntax),
        ("a in b", Syntax),
        ("a in (b", Syntax),
        ("a in (b c)", Syntax),
        ("a in (b=c)", Syntax),
        ("a=!b", Syntax),
        ("a=b=c", Syntax),
        ("a===b", Syntax),
        ("!a=b", Syntax),
        ("!!a", Syntax),
        ("=a", Syntax),
        ("(a)", Syntax),
        ("a\0b", Syntax),
        ("a=(b)", Syntax),
        ("-a", Key),
        ("a/b/c", Key),
        ("/a", Key),
        ("a/", Key),
        ("A/b", Key),
        ("é", Key),
        (&long, Key),
        ("a=-b", Value),
        ("a=b/c", Value),
        ("a=\"b\"", Value),
        ("a in (b.)", Value),
        (&format!("a={long}"), Value),
        ("a>x", Value),
        ("a>", Value),
        ("a>-1", Value),
    ] {
        assert_eq!(LabelSelector::parse(text), Err(error), "{text}");
    }
}

proptest! {
    #[test]
    fn the_canonical_text_reads_as_itself(
        text in "(!?[ab](| in \\([abx,]{0,4}\\)| notin \\(,?x?\\)|==?x?|!=1|>1|<2)?,?){0,4}",
    ) {
        if let Ok(selector) = LabelSelector::parse(&text) {
            let canonical = selector.to_string();
            let again = LabelSelector::parse(&canonical);
            prop_assert_eq!(again.as_ref(), Ok(&selector), "{}", canonical);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
        let _ = LabelSelector::parse(&text);
    }
}
