/**
 * Messages between the listener's thread and the backend's thread. They travel in the same rings as the client's bytes, in order
 * with them, framed as PostgreSQL frames its messages: a type byte, a length of 4 bytes that counts itself, a body (JSON).
 * No client message has such a type: the listener lets only PostgreSQL's frontend types through, and the backend writes none.
 *
 * | type | direction | meaning |
 * |---|---|---|
 * | 0x01 open | to backend | make a session for a client; answered by `opened` |
 * | 0x02 switch | to backend | the client's bytes follow: give it its session back |
 * | 0x03 close | to backend | roll back, drop what the session has made, forget it; answered by `closed` |
 * | 0x04 prepare | to backend | a Parse message that the client was told to be done (session-multiplexer.ts) |
 * | 0x05 identify | to backend | what is known of a role, to check its client's password with; answered by `identified` |
 * | 0x11 opened | to listener | the session's ParameterStatus values, or why it cannot be |
 * | 0x12 ready | to listener | the backend waits for a command: see ReadyMessage |
 * | 0x13 closed | to listener | |
 * | 0x15 lost | to listener | the session could not be given the backend: its settings are refused now |
 * | 0x16 identified | to listener | |
 * | 0x14 listens | to listener | the channels that a client listens to, when they change |
 */

export const controlType = {
  open: 0x01,
  switch: 0x02,
  close: 0x03,
  prepare: 0x04,
  identify: 0x05,
  opened: 0x11,
  ready: 0x12,
  closed: 0x13,
  listens: 0x14,
  lost: 0x15,
  identified: 0x16,
} as const;

export interface OpenMessage {
  readonly client: number;
  readonly user: string;
  readonly database: string;
  /** Settings of the startup packet, its `options` included, in order. */
  readonly settings: readonly (readonly [string, string])[];
}

export interface IdentifyMessage {
  readonly client: number;
  readonly user: string;
}

export interface IdentifiedMessage {
  readonly client: number;
  /** pg_authid.rolpassword; null if there is no such role, or it has none. */
  readonly password: string | null;
  /** VALID UNTIL has passed. */
  readonly expired: boolean;
}

/** Fields of an ErrorResponse. */
export interface SessionError {
  readonly code: string;
  readonly message: string;
  readonly detail?: string;
  readonly hint?: string;
}

export interface OpenedMessage {
  readonly client: number;
  /** Name and value of every ParameterStatus, or null with `error`. */
  readonly parameters: readonly (readonly [string, string])[] | null;
  readonly error?: SessionError;
}

export interface SwitchMessage {
  readonly client: number;
}

/** Body of `ready`, binary because one goes with every statement. */
export interface ReadyMessage {
  /** Transaction status as in ReadyForQuery, or `P`: in a pipeline, before its Sync. */
  readonly status: 'I' | 'T' | 'E' | 'P';
  /** The session holds session-level advisory locks: the backend cannot be given to another one. */
  readonly pinned: boolean;
  /** Client messages consumed since the thread began, modulo 2^32: equal to the number sent means nothing is under way. */
  readonly consumed: number;
  /** idle_in_transaction_session_timeout and idle_session_timeout of the session in ms; 0 is none. */
  readonly idleInTransactionMs: number;
  readonly idleSessionMs: number;
}

export const readyBytes = 5 + 14;

/** Writes the whole message: type, length, status, pinned, consumed, idleInTransactionMs, idleSessionMs. */
export function writeReady(target: DataView, ready: ReadyMessage): void {
  target.setUint8(0, controlType.ready);
  target.setUint32(1, readyBytes - 1);
  target.setUint8(5, ready.status.charCodeAt(0));
  target.setUint8(6, ready.pinned ? 1 : 0);
  target.setUint32(7, ready.consumed);
  target.setUint32(11, ready.idleInTransactionMs);
  target.setUint32(15, ready.idleSessionMs);
}

export function readReady(body: Uint8Array): ReadyMessage {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return {
    status: String.fromCharCode(view.getUint8(0)) as ReadyMessage['status'],
    pinned: view.getUint8(1) === 1,
    consumed: view.getUint32(2),
    idleInTransactionMs: view.getUint32(6),
    idleSessionMs: view.getUint32(10),
  };
}

export interface ClosedMessage {
  readonly client: number;
  /** As in ReadyMessage: what was sent beyond it has been dropped. */
  readonly consumed: number;
}

export interface LostMessage {
  readonly client: number;
  readonly error: SessionError;
}

export interface ListensMessage {
  readonly client: number;
  readonly channels: readonly string[];
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function encodeControl(type: number, body: object): Uint8Array {
  const json = encoder.encode(JSON.stringify(body));
  const bytes = new Uint8Array(5 + json.length);
  bytes[0] = type;
  new DataView(bytes.buffer).setUint32(1, 4 + json.length);
  bytes.set(json, 5);
  return bytes;
}

/** A control message whose body is a message of the protocol itself. */
export function wrapControl(type: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(5 + body.length);
  bytes[0] = type;
  new DataView(bytes.buffer).setUint32(1, 4 + body.length);
  bytes.set(body, 5);
  return bytes;
}

export function decodeControl<T>(body: Uint8Array): T {
  // TextDecoder refuses views of shared memory, so the bytes are copied; control messages are small.
  return JSON.parse(decoder.decode(body.slice())) as T;
}
