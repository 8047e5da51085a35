//! Shapes of the process itself: who it is, whether it is well.

use utoipa::ToSchema;

use super::shapes;

shapes! {
    /// Who answers here.
    Name { service: String, version: String, status: String, }
    /// One word.
    Status { status: String, }
}
