// Package worker serves blocks: cached ones from the block store, others from the under
// store, each page fetched once for all callers; it takes new content and hands it to
// the block store and the under store at the same time; it tells the masters what it
// holds and carries out their orders. It answers no question about metadata, decides no
// permission (a master's grant does), and never changes a store except for a content it
// was given by a writer and told to commit.
package worker
