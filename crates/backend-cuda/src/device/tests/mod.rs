//! What only a GPU can show.

mod captures;
mod child;
mod loading;
mod lost;
mod transfers;
mod use_together;
