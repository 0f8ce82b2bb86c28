/**
 * What a safekeeper must remember of a timeline besides its WAL: the term it promised, whom it voted for, the term history, and how far
 * the WAL is known to be committed (W3 of the write path). One small file, `safekeeper.control`, replaced whole and atomically.
 *
 *   | bytes   | field            |                                                                      |
 *   |---------|------------------|----------------------------------------------------------------------|
 *   | 0..3    | magic            | `PLSK`                                                               |
 *   | 4..7    | version          | 2; 1 has no configuration                                            |
 *   | 8..23   | tenant id        |                                                                      |
 *   | 24..39  | timeline id      |                                                                      |
 *   | 40..47  | systemIdentifier | 0 if no proposer has told it                                         |
 *   | 48..51  | pgVersion        | server_version_num                                                   |
 *   | 52..55  | walSegmentBytes  |                                                                      |
 *   | 56..63  | term             | nothing is accepted from a proposer of a lower one                   |
 *   | 64..79  | ruler            | id of the proposer voted for in `term`; zeros if none                |
 *   | 80..87  | startLsn         | first LSN held; 0 as long as no proposer was elected                 |
 *   | 88..95  | commitLsn        | a record boundary; all WAL below it is durable here and committed    |
 *   | 96..99  | history length   | number of 16-byte entries (term, LSN)                                |
 *   | 100..   | history          |                                                                      |
 *   | then    | configuration    | generation u64, number of members u32, node id u64 each              |
 *   | last 4  | crc32c           | of everything before it                                              |
 *
 * Invariants
 * - `term` and `ruler` are durable before the vote that they stand for leaves; `commitLsn` may lag
 * - `termHistory` may go beyond the WAL that is held: what counts is its part up to flushLsn
 *
 * Beside it lies `flush.mark`: how far the WAL was flushed, and known to be committed, at some time. It is written after each flush and made
 * durable only now and then, so it may lag but never tells more than was true. What it covers must be readable at the next start: a log
 * that ends earlier is damaged, not torn. After a killed process it is exact.
 *
 *   | bytes  | field     |                     |
 *   |--------|-----------|---------------------|
 *   | 0..7   | flushLsn  |                     |
 *   | 8..15  | commitLsn |                     |
 *   | 16..19 | crc32c    | of the bytes before |
 */
import { crc32c } from '../crc32c.ts';
import { isPageliteError, PageliteError } from '../errors.ts';
import { termHistoryEntriesMax } from '../limits.ts';
import { noConfiguration, type SafekeeperConfiguration } from '../model/configuration.ts';
import type { TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import { checkTermHistory, type Term, type TermHistory, type TermSwitch } from '../model/term.ts';
import { ByteReader, ByteWriter } from '../protocol/byte-codec.ts';
import { encodeConfiguration, type ProposerId, readConfiguration } from '../protocol/proposer-acceptor.ts';

export const controlFileName = 'safekeeper.control';
export const flushMarkName = 'flush.mark';
export const controlFileVersion = 2;
export const flushMarkBytes = 20;

const magic = 0x4b534c50;
const fixedBytes = 100;

export interface ControlState {
  readonly timeline: TenantTimelineId;
  readonly systemIdentifier: bigint;
  readonly pgVersion: number;
  readonly walSegmentBytes: number;
  readonly term: Term;
  readonly ruler: ProposerId;
  readonly startLsn: Lsn;
  readonly commitLsn: Lsn;
  readonly termHistory: TermHistory;
  /** The newest that it was told. */
  readonly configuration: SafekeeperConfiguration;
}

export function encodeControlFile(state: ControlState): Uint8Array {
  const configuration = encodeConfiguration(state.configuration);
  const out = new ByteWriter(fixedBytes + 16 * state.termHistory.length + configuration.length + 4)
    .u32(magic)
    .u32(controlFileVersion)
    .id(state.timeline.tenantId)
    .id(state.timeline.timelineId)
    .u64(state.systemIdentifier)
    .u32(state.pgVersion)
    .u32(state.walSegmentBytes)
    .u53(state.term)
    .id(state.ruler)
    .u53(state.startLsn)
    .u53(state.commitLsn)
    .u32(state.termHistory.length);
  for (const entry of state.termHistory) out.u53(entry.term).u53(entry.lsn);
  out.put(configuration);
  return out.u32(crc32c(out.bytes, 0, out.bytes.length - 4)).finish();
}

/** Throws `corrupt`, naming `file`, on anything that `encodeControlFile` would not have written for this timeline. */
export function decodeControlFile(bytes: Uint8Array, timeline: TenantTimelineId, file: string): ControlState {
  const corrupt = (problem: string, cause?: unknown) =>
    new PageliteError('corrupt', `control file ${file}: ${problem}`, { file, ...timeline }, { cause });
  if (bytes.length < fixedBytes + 4) throw corrupt(`cut short: ${bytes.length} bytes`);
  const reader = new ByteReader(bytes, `control file ${file}`);
  try {
    if (reader.u32() !== magic) throw corrupt('wrong magic');
    const version = reader.u32();
    if (version !== 1 && version !== controlFileVersion)
      throw corrupt(`version ${version}, this is ${controlFileVersion}`);
    const stored = new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 4, true);
    if (stored !== crc32c(bytes, 0, bytes.length - 4)) throw corrupt('wrong checksum');
    const state = readState(reader, version);
    reader.u32();
    reader.end();
    const { tenantId, timelineId } = state.timeline;
    if (tenantId !== timeline.tenantId || timelineId !== timeline.timelineId) {
      throw corrupt(`belongs to timeline ${tenantId}/${timelineId}`);
    }
    return state;
  } catch (error) {
    throw isPageliteError(error, 'corrupt') ? error : corrupt((error as Error).message, error);
  }
}

function readState(reader: ByteReader, version: number): ControlState {
  const fixed = {
    timeline: { tenantId: reader.id() as TenantId, timelineId: reader.id() as TimelineId },
    systemIdentifier: reader.u64(),
    pgVersion: reader.u32(),
    walSegmentBytes: reader.u32(),
    term: reader.u53() as Term,
    ruler: reader.id() as ProposerId,
    startLsn: reader.lsn(),
    commitLsn: reader.lsn(),
  };
  const count = reader.u32();
  if (count > termHistoryEntriesMax) throw reader.invalid(`${count} terms`);
  const termHistory: TermSwitch[] = [];
  for (let i = 0; i < count; i++) termHistory.push({ term: reader.u53() as Term, lsn: reader.lsn() });
  checkTermHistory(termHistory);
  return { ...fixed, termHistory, configuration: version === 1 ? noConfiguration : readConfiguration(reader) };
}

export interface FlushMark {
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
}

/** Says nothing, which is always true. */
export const noFlushMark: FlushMark = { flushLsn: 0 as Lsn, commitLsn: 0 as Lsn };

export function encodeFlushMark(mark: FlushMark): Uint8Array {
  const out = new ByteWriter(flushMarkBytes).u53(mark.flushLsn).u53(mark.commitLsn);
  return out.u32(crc32c(out.bytes, 0, flushMarkBytes - 4)).finish();
}

/** Says nothing if there is no mark, or it was torn by a power failure. */
export function decodeFlushMark(bytes: Uint8Array | null): FlushMark {
  if (bytes === null || bytes.length !== flushMarkBytes) return noFlushMark;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(flushMarkBytes - 4, true) !== crc32c(bytes, 0, flushMarkBytes - 4)) return noFlushMark;
  const reader = new ByteReader(bytes, flushMarkName);
  return { flushLsn: reader.lsn(), commitLsn: reader.lsn() };
}
