/**
 * The bytes of a compute's bridge where it has no shared memory: requests and answers as bodies of HTTP.
 *
 * A page without cross-origin isolation sends them by synchronous XMLHttpRequest (browser/bridge/xhr-bridge.ts) to a server that runs the I/O host
 * (server/console/bridge-sessions.ts). Integers are little-endian.
 *
 *   start                                        | request
 *   4     bytes of the JSON                      | 4  version
 *   ...   StartJson                              | 4  op, as in bridge-layout.ts, or `flush`
 *   ...   pieces of the boot WAL, as long as     | 8  offset of the WAL bytes in the stream since the start
 *         the JSON says                          | 4  WAL bytes
 *   ...   basebackup (basebackup-codec.ts)       | 4  arguments
 *                                                | ... arguments, Float64 each, then the WAL bytes
 *
 * An answer is the bytes that the I/O host answers; of `flush` one byte, 1 once the quorum has all WAL, 0: ask again. A failed request is
 * BridgeError as JSON, with a status that is not 200.
 *
 * Invariant: a request that is sent again (its answer was lost) does what it did before: WAL is taken once, by its offset.
 */

import { assert } from '../../engine/assert.ts';
import type { WalPiece } from '../../engine/basebackup/control-data.ts';
import { concatBytes } from '../../engine/bytes.ts';
import { type ErrorJson, PageliteError } from '../../engine/errors.ts';
import { walMessageBytesMax } from '../../engine/limits.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { basebackupChunks, decodeBasebackup } from '../../engine/protocol/basebackup-codec.ts';
import { ByteReader } from '../../engine/protocol/byte-codec.ts';
import { argumentCount } from './bridge-layout.ts';
import type { ComputeStart } from './io-host.ts';

export const httpBridgeVersion = 1;
/** Beside the ops of bridge-layout.ts: waits for the quorum. */
export const flushOp = 100;
const requestHeaderBytes = 24;
export const requestBytesMax = requestHeaderBytes + argumentCount * 8 + walMessageBytesMax;
/** How long a `flush` waits before it answers 0. */
export const flushWaitMs = 10_000;
/** A session of which nothing was heard for this long is over; a page shows life this often. */
export const sessionIdleMaxMs = 90_000;
export const sessionKeepAliveMs = 15_000;

/** Body of the request that opens a session. */
export interface OpenSession {
  readonly tenantId: string;
  readonly timelineId: string;
  /** Null: for writing. */
  readonly readOnlyAt: string | null;
}

export interface BridgeError {
  /** The session is over; otherwise only this request has failed. */
  readonly fatal: boolean;
  readonly error: ErrorJson;
}

export interface BridgeRequest {
  readonly op: number;
  readonly args: Float64Array;
  readonly walOffset: number;
  readonly wal: Uint8Array;
}

interface StartJson {
  readonly session: string;
  readonly id: { readonly tenantId: string; readonly timelineId: string };
  readonly readOnly: boolean;
  readonly term: number;
  readonly bootWal: readonly { readonly lsn: number; readonly bytes: number }[];
}

export function encodeRequest({ op, args, walOffset, wal }: BridgeRequest): Uint8Array<ArrayBuffer> {
  assert(args.length <= argumentCount && wal.length <= walMessageBytesMax);
  const bytes = new Uint8Array(requestHeaderBytes + args.length * 8 + wal.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, httpBridgeVersion, true);
  view.setUint32(4, op, true);
  view.setFloat64(8, walOffset, true);
  view.setUint32(16, wal.length, true);
  view.setUint32(20, args.length, true);
  for (let i = 0; i < args.length; i++) view.setFloat64(requestHeaderBytes + i * 8, args[i]!, true);
  bytes.set(wal, requestHeaderBytes + args.length * 8);
  return bytes;
}

/** Throws `invalid`. */
export function decodeRequest(bytes: Uint8Array): BridgeRequest {
  const invalid = (what: string) => new PageliteError('invalid', `a bridge request ${what}`);
  if (bytes.length < requestHeaderBytes || bytes.length > requestBytesMax) throw invalid(`of ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(0, true);
  if (version !== httpBridgeVersion) throw invalid(`of version ${version}: this server speaks ${httpBridgeVersion}`);
  const walOffset = view.getFloat64(8, true);
  const walBytes = view.getUint32(16, true);
  const argsLength = view.getUint32(20, true);
  const isWhole = bytes.length === requestHeaderBytes + argsLength * 8 + walBytes;
  if (!isWhole || argsLength > argumentCount || walBytes > walMessageBytesMax) throw invalid('with other lengths');
  if (!Number.isSafeInteger(walOffset) || walOffset < 0) throw invalid(`with WAL at ${walOffset}`);
  const args = Float64Array.from({ length: argsLength }, (_, i) => view.getFloat64(requestHeaderBytes + i * 8, true));
  return { op: view.getUint32(4, true), args, walOffset, wal: bytes.subarray(requestHeaderBytes + argsLength * 8) };
}

export function encodeStart(session: string, start: ComputeStart): Uint8Array<ArrayBuffer> {
  const { id, readOnly, term, lsn, systemIdentifier, files, prewarm, bootWal } = start;
  const pieces = bootWal.map((piece) => ({ lsn: piece.lsn, bytes: piece.bytes.length }));
  const json: StartJson = { session, id: { ...id }, readOnly, term, bootWal: pieces };
  const text = new TextEncoder().encode(JSON.stringify(json));
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, text.length, true);
  const basebackup = { lsn, prevLsn: 0 as Lsn, systemIdentifier, files, prewarm };
  const chunks = [...basebackupChunks(basebackup, 1024 * 1024)].map(({ bytes }) => bytes);
  return concatBytes([head, text, ...bootWal.map(({ bytes }) => bytes), ...chunks]);
}

/** Throws `invalid`. */
export function decodeStart(bytes: Uint8Array): { session: string; start: ComputeStart } {
  const reader = new ByteReader(bytes, 'start of a compute');
  const json = parseStart(new TextDecoder().decode(reader.bytes(reader.u32())));
  const bootWal = json.bootWal.map(
    ({ lsn, bytes: length }): WalPiece => ({ lsn: lsn as Lsn, bytes: reader.bytes(length).slice() }),
  );
  const { lsn, systemIdentifier, files, prewarm } = decodeBasebackup(bytes.slice(bytes.length - reader.remaining));
  const { session, readOnly, term } = json;
  const id: TenantTimelineId = { tenantId: tenantId(json.id.tenantId), timelineId: timelineId(json.id.timelineId) };
  return { session, start: { bridge: null, id, readOnly, term, lsn, systemIdentifier, files, prewarm, bootWal } };
}

function parseStart(text: string): StartJson {
  const json = JSON.parse(text) as StartJson;
  const isWhole = typeof json.session === 'string' && typeof json.term === 'number' && Array.isArray(json.bootWal);
  if (!isWhole) throw new PageliteError('invalid', 'the start of a compute is malformed');
  return json;
}

/** Throws `invalid`. */
export function parseOpenSession(json: unknown): { id: TenantTimelineId; readOnlyAt: Lsn | null } {
  const { tenantId: tenant, timelineId: timeline, readOnlyAt } = (json ?? {}) as Partial<OpenSession>;
  return {
    id: { tenantId: tenantId(String(tenant)), timelineId: timelineId(String(timeline)) },
    readOnlyAt: typeof readOnlyAt === 'string' ? parseLsn(readOnlyAt) : null,
  };
}
