//! What a handler's signature says about its operation: who may call it, whether it reads a body, a query string, a path.
//!
//! **Invariants**: the document's security is read off the extractors that enforce it, so the two cannot differ. **Must not
//! know** any single route.

use actix_web::{HttpRequest, web};

use super::super::{
    auth::{Reader, ServiceProbe, ServiceReader, ServiceWriter, Writer},
    query::Query,
    request_body::ApiBody,
    request_frame::RequestIds,
};

/// Which key an operation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyNeed {
    /// Only a service key will do.
    pub service: bool,
    /// The key must be allowed to write.
    pub write: bool,
}

/// What a signature says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The key, if one is asked for.
    pub key: Option<KeyNeed>,
    /// Whether a JSON body is read.
    pub body: bool,
    /// Whether the query string is read.
    pub query: bool,
    /// Whether the handler is given the whole request, and may read its query string by hand.
    pub request: bool,
    /// How many parts of the path are read.
    pub path: usize,
}

/// One argument of a handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is an extractor that the OpenAPI document does not know",
    note = "say in src/routes/openapi/arguments.rs what it means for the document"
)]
pub trait Argument {
    /// Adds what it means.
    fn note(needs: &mut Needs);
}

macro_rules! arguments {
    ($($type:ty: |$needs:ident| $note:expr;)*) => {$(
        impl Argument for $type {
            fn note($needs: &mut Needs) {
                $note
            }
        }
    )*};
}

arguments! {
    Reader: |needs| needs.key = Some(KeyNeed { service: false, write: false });
    Writer: |needs| needs.key = Some(KeyNeed { service: false, write: true });
    ServiceReader: |needs| needs.key = Some(KeyNeed { service: true, write: false });
    ServiceProbe: |needs| needs.key = Some(KeyNeed { service: true, write: false });
    ServiceWriter: |needs| needs.key = Some(KeyNeed { service: true, write: true });
    ApiBody: |needs| needs.body = true;
    Query: |needs| needs.query = true;
    web::Path<String>: |needs| needs.path = 1;
    web::Path<(String, String)>: |needs| needs.path = 2;
    HttpRequest: |needs| needs.request = true;
    RequestIds: |_needs| ();
    web::Payload: |_needs| ();
}

impl<T> Argument for web::Data<T> {
    fn note(_: &mut Needs) {}
}

/// All arguments of a handler.
pub trait Arguments {
    /// What they say together.
    fn needs() -> Needs;
}

macro_rules! tuples {
    ($(($($argument:ident),*);)*) => {$(
        impl<$($argument: Argument),*> Arguments for ($($argument,)*) {
            fn needs() -> Needs {
                let mut needs = Needs::default();
                $($argument::note(&mut needs);)*
                needs
            }
        }
    )*};
}

impl Arguments for () {
    fn needs() -> Needs {
        Needs::default()
    }
}

tuples! {
    (A);
    (A, B);
    (A, B, C);
    (A, B, C, D);
    (A, B, C, D, E);
    (A, B, C, D, E, F);
    (A, B, C, D, E, F, G);
}
