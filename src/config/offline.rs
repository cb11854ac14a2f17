//! `offline`: what holds while the cloud is away.

use crate::tls::Expiry;

use super::error::Problems;
use super::object::{Field, or_default};

/// `offline`: what holds while the cloud is away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offline {
    /// What the expiry of certificates and tokens means.
    pub expiry: Expiry,
}

pub(super) fn read(field: Option<Field<'_>>, out: &mut Problems) -> Option<Offline> {
    let default = Offline::default();
    or_default(field, default.clone(), |field| {
        let object = field.object(&["expiry"], out)?;
        let choices = [Expiry::LastContact, Expiry::Strict].map(|expiry| (expiry.as_str(), expiry));
        let expiry = or_default(object.get("expiry"), default.expiry, |field| {
            field.choice(&choices, out)
        });
        Some(Offline { expiry: expiry? })
    })
}
