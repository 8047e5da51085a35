//! Who looks at a page.

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, web};
use futures_util::future::LocalBoxFuture;

use super::layout::{Layout, Section};
use crate::{
    model::clock::EpochMs,
    routes::{Caller, Gateway, Problem, error_codes as codes, session},
};

/// Somebody who is signed in. In a handler's signature it asks for that; who is not comes to the sign-in page.
#[derive(Clone)]
pub struct Visitor {
    /// As the JSON API knows them.
    pub caller: Caller,
    /// The gateway.
    pub gateway: web::Data<Gateway>,
    /// When they asked.
    pub now: EpochMs,
    /// The path they asked for, below that of the gateway.
    pub path: String,
    /// Whether only the page's content is wanted.
    pub is_fragment: bool,
}

impl Visitor {
    /// What is around a page.
    pub fn layout(&self, section: Section, title: &str) -> Layout {
        Layout::of(self, section, title)
    }
}

impl FromRequest for Visitor {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let Some(gateway) = request.app_data::<web::Data<Gateway>>().cloned() else {
                return Err(Problem::new(&codes::INTERNAL_ERROR).caused_by("the gateway is not in the app's data"));
            };
            let caller = Caller::authenticate(&gateway, &request).await?;
            let visitor = Self {
                caller,
                now: gateway.clock.now(),
                path: request.path().to_owned(),
                is_fragment: !session::is_person(&request),
                gateway,
            };
            request.extensions_mut().insert(visitor.clone());
            Ok(visitor)
        })
    }
}
