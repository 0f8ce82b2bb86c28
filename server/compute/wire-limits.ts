/**
 * Bounds of the wire listener, each with its reason. Relations between them are asserted at load.
 */
import { assert } from '../../engine/assert.ts';

/** Client bytes on their way to the backend. Large enough that a COPY is not one wake-up per chunk; the client's socket is paused when full. */
export const inRingBytes = 256 * 1024;
/** Backend bytes on their way to the client: the backend blocks when it is full, so this is all that a result occupies here. */
export const outRingBytes = 1024 * 1024;
/** MAX_STARTUP_PACKET_LENGTH (pqcomm.h). */
export const startupPacketBytesMax = 10_000;
/** PQ_SMALL_MESSAGE_LIMIT (libpq.h): messages that carry names and counts only. */
export const smallMessageBytesMax = 10_000;
/** What a client that is not known yet may send at once: PostgreSQL's limit of a SASL message. */
export const passwordMessageBytesMax = 1024;
/** Query, Parse, Bind, CopyData: PostgreSQL allows 1 GB; the backend has 2 GB of memory in all, and a message is held in it twice. */
export const largeMessageBytesMax = 256 * 1024 * 1024;
/** Client bytes kept in the listener for a client that does not have the backend; its socket is paused above this. */
export const clientBufferBytesMax = 64 * 1024;
/** Bytes handed to a client's socket and not yet taken by the kernel; above this the out ring is left to fill. */
export const socketBufferBytesMax = 256 * 1024;
/** Messages of the listener to the backend thread (session opened, switched, closed), see session-protocol.ts. */
export const controlMessageBytesMax = 64 * 1024;

export interface SessionLimits {
  /** Connections at one time; more are refused with 53300. */
  readonly connectionsMax: number;
  /** A connection that has not sent its startup packet by then is closed. */
  readonly startupTimeoutMs: number;
  /** How long a client may take to prove who it is, once it was asked. */
  readonly authenticationTimeoutMs: number;
  /** While others wait: how long a client may sit idle in a transaction. Then 25P03 and rollback. */
  readonly idleInTransactionMs: number;
  /** While others wait: how long a client may leave its results unread, or stop in the middle of a message or a COPY. */
  readonly stalledClientMs: number;
  /** How long a client waits for a backend that another one has pinned (session-level advisory locks). Then 55P03. */
  readonly pinnedWaitMs: number;
  /** How long a running statement may ignore a cancel before the backend is restarted. */
  readonly cancelGraceMs: number;
}

export const defaultSessionLimits: SessionLimits = {
  connectionsMax: 1000,
  startupTimeoutMs: 30_000,
  authenticationTimeoutMs: 60_000,
  idleInTransactionMs: 60_000,
  stalledClientMs: 60_000,
  pinnedWaitMs: 60_000,
  cancelGraceMs: 10_000,
};

// Rings index with a mask.
assert((inRingBytes & (inRingBytes - 1)) === 0 && (outRingBytes & (outRingBytes - 1)) === 0);
// A control message is written whole.
assert(controlMessageBytesMax + 5 <= inRingBytes);
assert(startupPacketBytesMax <= clientBufferBytesMax);
