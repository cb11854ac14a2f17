//! Label and field selectors, read exactly as Kubernetes reads them.
//!
//! A selector has one canonical text, so that two spellings of the same selection share one view. Text that
//! upstream would refuse stays as it is, and nothing is derived from it or for it.

pub mod fields;
pub mod labels;

/// Why a selector's text is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SelectorError {
    /// The grammar.
    #[error("the selector does not follow the grammar")]
    Syntax,
    /// A label key that is no qualified name.
    #[error("a label key is not a qualified name")]
    Key,
    /// A label value that is none, or no integer with `>` and `<`.
    #[error("a label value is not valid")]
    Value,
    /// A backslash before anything but `\`, `,` and `=`, or one of these bare in a field's value.
    #[error("a field value is not escaped")]
    Escape,
}

/// The canonical text of a label selector, or the text itself where it is not valid.
pub fn canonical_labels(text: &str) -> String {
    labels::LabelSelector::parse(text).map_or_else(|_| text.to_owned(), |selector| selector.to_string())
}

/// The canonical text of a field selector, or the text itself where it is not valid.
pub fn canonical_fields(text: &str) -> String {
    fields::FieldSelector::parse(text).map_or_else(|_| text.to_owned(), |selector| selector.to_string())
}
