/* Tells Python which sources a library was made of. */
const char *learned_opt_source_digest(void) { return SOURCE_DIGEST; }
