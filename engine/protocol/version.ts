/**
 * Version numbers of the WAL's two protocols: proposer to acceptor (protocol/proposer-acceptor.ts) and safekeeper to WAL reader
 * (protocol/wal-stream.ts). The page service's is in protocol/pagestream.ts.
 *
 * Raised whenever the bytes of any message change; the schema tests in tests/safekeeper/ fail when they change under an old number.
 */
export const proposerAcceptorVersion = 3;
export const walStreamVersion = 4;
