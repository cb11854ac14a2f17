//! Who a request is: the principal of a verified certificate or of a bearer token.
