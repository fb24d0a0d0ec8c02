//! Nothing but a package for the bench beside it.
