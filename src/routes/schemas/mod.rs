//! The shapes of JSON in the OpenAPI document: what bodies hold and what answers show.
//!
//! They describe and are never built: handlers write JSON with `json!`. A test validates real answers against them, unknown
//! members included, so that they stay true. **Invariants**: a member of a shape is always there, and may be `null` where
//! its type says `Option`; a member after `sometimes` may be missing. **Must not know** any handler.
#![expect(dead_code, reason = "shapes describe; nobody builds them")]

mod connections;
mod process;
mod vocabulary;

pub use self::{connections::*, process::*, vocabulary::*};

/// Defines shapes: `Name { member: Type, … }, sometimes { member: Type, … }`.
macro_rules! shapes {
    ($(
        $(#[$meta:meta])*
        $name:ident $(<$generic:ident>)? { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }
        $(, sometimes { $($(#[$more_meta:meta])* $more:ident: $more_type:ty,)* })?
    )*) => {$(
        $(#[$meta])*
        #[derive(ToSchema)]
        #[schema(rename_all = "camelCase")]
        pub struct $name $(<$generic>)? {
            $($(#[$field_meta])* #[schema(required = true)] $field: $type,)*
            $($($(#[$more_meta])* #[schema(required = false)] $more: $more_type,)*)?
        }
    )*};
}
pub(crate) use shapes;
