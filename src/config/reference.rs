//! Fields that name one of `clients`, wherever they stand.

use super::error::{Fault, quoted};
use super::object::Field;
use super::text;

/// The names in `clients`, before anything of these has been read.
pub(super) struct Names(Vec<Name>);

struct Name {
    common_name: String,
    /// Its certificate comes from a Secret, so it cannot read those of others.
    from_secret: bool,
}

impl Names {
    pub(super) fn of(clients: Option<&Field<'_>>) -> Self {
        let name = |client: &Field<'_>| {
            Some(Name {
                common_name: client.peek("commonName")?.peek_text()?.to_owned(),
                from_secret: client.peek("secretRef").is_some(),
            })
        };
        let clients = clients.map(Field::peek_items).unwrap_or_default();
        Self(clients.iter().filter_map(name).collect())
    }

    pub(super) fn contains(&self, common_name: &str) -> bool {
        self.find(common_name).is_some()
    }

    /// The name of a client.
    pub(super) fn client(&self, field: &Field<'_>) -> Option<String> {
        let name = field.parse(text::common_name)?;
        if !self.contains(&name) {
            field.refuse(Fault::new(
                format!("{} is not a client of this configuration", quoted(&name)),
                "write the commonName of one of `clients`",
            ));
        }
        Some(name)
    }

    /// The name of a client that reads certificates of others, so that its own comes from files.
    pub(super) fn reader(&self, field: &Field<'_>) -> Option<String> {
        let name = self.client(field)?;
        if self.find(&name).is_some_and(|name| name.from_secret) {
            field.refuse(Fault::new(
                format!("the certificate of {} comes from a Secret itself", quoted(&name)),
                "name a client with certFile and keyFile",
            ));
        }
        Some(name)
    }

    fn find(&self, common_name: &str) -> Option<&Name> {
        self.0.iter().find(|name| name.common_name == common_name)
    }
}
