//! The shapes of JSON in the OpenAPI document: what bodies hold and what answers show.
//!
//! They describe and are never built: handlers write JSON with `json!`. A test validates real answers against them, unknown
//! members included, so that they stay true. **Invariants**: a member of a shape is always there, and may be `null` where
//! its type says `Option`; a member after `sometimes` may be missing. **Must not know** any handler.
#![expect(dead_code, reason = "shapes describe; nobody builds them")]
#![expect(clippy::struct_field_names, reason = "members are called what the wire calls them")]

mod access;
mod connections;
mod events;
mod integrations;
mod process;
mod vocabulary;

pub use self::{access::*, connections::*, events::*, integrations::*, process::*, vocabulary::*};

/// Defines shapes: `Name { member: Type, … }, sometimes { member: Type, … }`.
macro_rules! shapes {
    ($(
        $(#[$meta:meta])*
        $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }
        $(, sometimes { $($(#[$more_meta:meta])* $more:ident: $more_type:ty,)* })?
    )*) => {$(
        $(#[$meta])*
        #[derive(ToSchema)]
        #[schema(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_meta])* #[schema(required = true)] $field: $type,)*
            $($($(#[$more_meta])* #[schema(required = false)] $more: $more_type,)*)?
        }
    )*};
}
pub(crate) use shapes;

/// Defines shapes with the members of two others: `Name = One + Other;`.
macro_rules! extended {
    ($($(#[doc = $doc:literal])* $name:ident = $first:ident + $second:ident;)*) => {$(
        $(#[doc = $doc])*
        pub struct $name;

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let reference = |name: &str| utoipa::openapi::Ref::from_schema_name(name);
                let description = [$($doc.trim()),*].join(" ");
                utoipa::openapi::schema::AllOfBuilder::new()
                    .item(reference(&<$first as ToSchema>::name()))
                    .item(reference(&<$second as ToSchema>::name()))
                    .description(Some(description))
                    .into()
            }
        }

        impl ToSchema for $name {
            fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>) {
                for (name, schema) in [
                    (<$first as ToSchema>::name(), <$first as utoipa::PartialSchema>::schema()),
                    (<$second as ToSchema>::name(), <$second as utoipa::PartialSchema>::schema()),
                ] {
                    schemas.push((name.into_owned(), schema));
                }
                <$first as ToSchema>::schemas(schemas);
                <$second as ToSchema>::schemas(schemas);
            }
        }
    )*};
}
pub(crate) use extended;
