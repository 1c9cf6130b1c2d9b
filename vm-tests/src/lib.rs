//! Real guests, power cuts, and a user-space vhost-user front-end that needs no guest.
