/**
 * What a safekeeper remembers of its peers. One whose disk was put back to an older state does not know what it acknowledged and promised; the others do:
 *
 * - of each timeline, the most that each peer has shown (`PeerMark`; a file of the timeline, written after each round of upkeep.ts): it says that a disk was put
 *   back
 * - of each peer, its latest process (`PeerMemory`; a file of the safekeeper): proposers are told of it, and do not count what an earlier one has said
 *
 * Invariants
 * - what is shown is durable, and of a disk that nobody put back it only goes up
 * - a process that has introduced itself here is known as long as this disk holds, and whatever leaves for a proposer after that tells of it
 */
import { crc32c } from '../crc32c.ts';
import { messageOf } from '../errors.ts';
import { safekeepersMax } from '../limits.ts';
import type { NodeId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import { ByteReader, ByteWriter } from '../protocol/byte-codec.ts';
import type { PeerIncarnation } from '../protocol/proposer-acceptor.ts';
import type { Log } from '../services.ts';
import type { NodeFiles } from './storage.ts';

/** What a peer has shown of a timeline. */
export interface PeerMark {
  readonly term: number;
  readonly commitLsn: Lsn;
}

export const peerMarksName = 'peers.mark';
const peerIncarnationsName = 'peers';
const markBytes = 24;
const incarnationBytes = 16;

/** count u32, of each: node id u64, term u64, commitLsn u64; crc32c u32. */
export function encodePeerMarks(marks: ReadonlyMap<NodeId, PeerMark>): Uint8Array {
  const out = new ByteWriter(8 + markBytes * marks.size).u32(marks.size);
  for (const [node, { term, commitLsn }] of marks) out.u53(node).u53(term).u53(commitLsn);
  return seal(out);
}

/** Nothing if there are none, or they were torn by a power failure. A longer list may have been written over: what follows is not looked at. */
export function decodePeerMarks(bytes: Uint8Array | null): Map<NodeId, PeerMark> {
  const marks = new Map<NodeId, PeerMark>();
  readList(bytes, markBytes, (node, list) => marks.set(node, { term: list.u53(), commitLsn: list.lsn() }));
  return marks;
}

export class PeerMemory {
  readonly #files: NodeFiles | null;
  readonly #log: Log;
  readonly #incarnations = new Map<NodeId, number>();
  #known: readonly PeerIncarnation[] = [];
  #loading: Promise<void> | null = null;
  #writing: Promise<void> = Promise.resolve();

  constructor(files: NodeFiles | null, log: Log) {
    this.#files = files;
    this.#log = log;
  }

  /** The latest process of each peer. */
  get known(): readonly PeerIncarnation[] {
    return this.#known;
  }

  /** Once; does not reject. */
  load(): Promise<void> {
    this.#loading ??= this.#load();
    return this.#loading;
  }

  /** Notes a peer's process, and resolves when that is durable: with the highest number of it that was known before, 0 if none was. */
  async meet(node: NodeId, incarnation: number): Promise<number> {
    await this.load();
    const before = this.#incarnations.get(node) ?? 0;
    if (incarnation > before) this.#note(node, incarnation);
    // Also what another call has begun to write.
    await this.#writing;
    return before;
  }

  #note(node: NodeId, incarnation: number): void {
    this.#incarnations.set(node, incarnation);
    // Of those that were replaced long ago nobody counts anything.
    if (this.#incarnations.size > safekeepersMax) this.#incarnations.delete(this.#oldest());
    this.#list();
    const out = new ByteWriter(8 + incarnationBytes * this.#known.length).u32(this.#known.length);
    for (const known of this.#known) out.u53(known.node).u53(known.incarnation);
    const bytes = seal(out);
    const writing = this.#writing.catch(() => {}).then(() => this.#files?.replaceFile(peerIncarnationsName, bytes));
    this.#writing = writing;
    // Whoever waits for it hears it; the next one writes all of it again.
    writing.catch(() => {});
  }

  #oldest(): NodeId {
    return [...this.#incarnations].reduce((oldest, one) => (one[1] < oldest[1] ? one : oldest))[0];
  }

  async #load(): Promise<void> {
    try {
      const bytes = (await this.#files?.readFile(peerIncarnationsName)) ?? null;
      readList(bytes, incarnationBytes, (node, list) =>
        this.#incarnations.set(node, Math.max(list.u53(), this.#incarnations.get(node) ?? 0)),
      );
    } catch (error) {
      this.#log.warn('what was known of other safekeepers cannot be read', { error: messageOf(error) });
    }
    this.#list();
  }

  #list(): void {
    this.#known = [...this.#incarnations].map(([node, incarnation]) => ({ node, incarnation }));
  }
}

/** crc32c of all that is before it. */
function seal(out: ByteWriter): Uint8Array {
  return out.u32(crc32c(out.bytes, 0, out.bytes.length - 4)).finish();
}

/** Reads entries of this size, each of a node, if the list is whole: `take` reads what follows the node's id. */
function readList(bytes: Uint8Array | null, entryBytes: number, take: (node: NodeId, list: ByteReader) => void): void {
  if (bytes === null || bytes.length < 8) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = view.getUint32(0, true);
  const end = 4 + entryBytes * count;
  if (count > safekeepersMax || bytes.length < end + 4) return;
  if (view.getUint32(end, true) !== crc32c(bytes, 0, end)) return;
  const list = new ByteReader(bytes.subarray(0, end), 'list of safekeepers');
  list.u32();
  for (let i = 0; i < count; i++) take(list.u53() as NodeId, list);
}
