/**
 * The WAL of one timeline in 16 MB segment files named as PostgreSQL's, the last one with `.partial` (W3 of the write path). Called by
 * safekeeper/timeline.ts; calls a SegmentStorage.
 *
 * Invariants
 * - the bytes of [startLsn, writeLsn) are those of the WAL at their places; all other bytes of the files are zeros, so that nothing that
 *   was cut off or torn can be taken for WAL later. What an earlier process may have left there is looked for, and cut off, before the first write: a log
 *   that nobody writes to costs no look through 16 MB of zeros, and can be read where there is no room to cut
 * - a commit is one `sync` of blocks that exist: the last file is filled with zeros ahead of its end in steps of `walZeroFillBytes`
 * - what is known to have been durable (commitLsn, and the flush mark) is there at open, whole and valid, or the open fails `corrupt` and
 *   names file and LSN. Only beyond it may the log end with a torn record, which is then cut off
 * - all that is counted as WAL at open is durable, also what an earlier process had only written
 * - a file that is cut short or missing is noticed at open; a flipped bit at open in the WAL past commitLsn, and before it when it is read
 *   (wal-reader.ts checks every record that comes from disk)
 */
import { assert } from '../assert.ts';
import { isPageliteError, PageliteError } from '../errors.ts';
import { walSegmentSize, walTailCacheBytesMax, walZeroFillBytes } from '../limits.ts';
import { formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import type { Log } from '../services.ts';
import { RecordScan } from '../wal/record-scan.ts';
import { WalChunks } from '../wal/wal-chunks.ts';
import {
  firstBoundaryIn,
  longHeaderBytes,
  parseSegmentFileName,
  segmentFileName,
  segmentStart,
  walPageMagic,
} from '../wal/wal-page.ts';
import { RecordBoundaries } from './record-boundaries.ts';
import type { SegmentStorage } from './storage.ts';

const partialSuffix = '.partial';
const scanStepBytes = 256 * 1024;
const clearStepBytes = 1024 * 1024;
const zeros = new Uint8Array(walZeroFillBytes);

export interface WalLogOptions {
  readonly segments: SegmentStorage;
  /** Folder of the files, for messages. */
  readonly label: string;
  /** Where the log begins; 0 if nothing was ever written. */
  readonly startLsn: Lsn;
  /** A record boundary below which all WAL is known to be valid and durable. */
  readonly commitLsn: Lsn;
  /** How far WAL is known to have been durable; may be below commitLsn. */
  readonly flushedLsn: Lsn;
  readonly log: Log;
}

export class WalLog {
  readonly #segments: SegmentStorage;
  readonly #label: string;
  readonly #tail = new WalChunks(invalidLsn);
  /** As found at open. */
  readonly boundaries = new RecordBoundaries();
  #startLsn: Lsn;
  #writeLsn: Lsn;
  /** Start of the last record at open, for the acceptor's scan; 0 if unknown. */
  #lastRecordLsn: Lsn = invalidLsn;
  /** Name of each file by the LSN at which it starts. */
  readonly #names = new Map<number, string>();
  /** Up to here the last file has blocks of its own. */
  #filledLsn = 0;
  readonly #dirty = new Set<string>();
  readonly #log: Log;
  /** Up to here, where the files ended at open, a torn write's remains may be behind writeLsn: nothing is written before they are cut off. 0: there are none. */
  #unclearedLsn = 0;
  /** The last renaming of a file, done or under way. Never rejects. */
  #renaming: Promise<void> = Promise.resolve();
  /** Segments that are complete and still to get their final names. */
  readonly #full = new Set<number>();

  private constructor(options: WalLogOptions) {
    this.#segments = options.segments;
    this.#label = options.label;
    this.#log = options.log;
    this.#startLsn = options.startLsn;
    this.#writeLsn = options.startLsn;
  }

  static async open(options: WalLogOptions): Promise<WalLog> {
    const log = new WalLog(options);
    await log.#open(options);
    return log;
  }

  get startLsn(): Lsn {
    return this.#startLsn;
  }

  /** At open: the end of the last valid record. */
  get writeLsn(): Lsn {
    return this.#writeLsn;
  }

  get lastRecordLsn(): Lsn {
    return this.#lastRecordLsn;
  }

  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /**
   * Goes on where the last write ended. The bytes are kept: the caller does not change them any more. Undefined if it was done within the call,
   * as the storage can for what fits the blocks that are there.
   */
  write(lsn: Lsn, bytes: Uint8Array): Promise<void> | undefined {
    assert(
      lsn === this.#writeLsn && lsn !== invalidLsn,
      `write at ${formatLsn(lsn)}, not at ${formatLsn(this.#writeLsn)}`,
    );
    if (this.#unclearedLsn > lsn) return this.#clearAndWrite(lsn, bytes);
    const start = segmentStart(lsn);
    const end = lsn + bytes.length;
    const name = this.#names.get(start);
    if (name === undefined || end > this.#filledLsn || end >= start + walSegmentSize)
      return this.#writeLong(lsn, bytes);
    const writing = this.#segments.write(name, lsn - start, bytes);
    this.#dirty.add(name);
    if (writing !== undefined) return writing.then(() => this.#written(lsn, bytes));
    this.#written(lsn, bytes);
    return undefined;
  }

  async #clearAndWrite(lsn: Lsn, bytes: Uint8Array): Promise<void> {
    await this.#clearTail();
    await this.#writeLong(lsn, bytes);
  }

  /** Into blocks that the file does not have yet, or over the end of it. */
  async #writeLong(lsn: Lsn, bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const at = lsn + done;
      const start = segmentStart(at);
      const name = this.#names.get(start) ?? (await this.#beginSegment(start));
      const length = Math.min(bytes.length - done, start + walSegmentSize - at);
      await this.#segments.write(name, at - start, bytes.subarray(done, done + length));
      this.#dirty.add(name);
      const end = at + length;
      if (end > this.#filledLsn) {
        this.#filledLsn = end;
        // What is written in large pieces would only be written twice.
        if (bytes.length < walZeroFillBytes / 16) await this.#fillAhead(name, start);
      }
      if (at + length === start + walSegmentSize) this.#full.add(start);
      done += length;
    }
    this.#written(lsn, bytes);
  }

  #written(lsn: Lsn, bytes: Uint8Array): void {
    this.#tail.add(lsn, bytes);
    this.#tail.dropBefore(lsn, walTailCacheBytesMax);
    this.#writeLsn = (lsn + bytes.length) as Lsn;
  }

  /** All that was written is durable. A full segment gets its final name. Undefined if it was done within the call. */
  sync(): Promise<void> | undefined {
    if (this.#full.size > 0 || this.#dirty.size !== 1) return this.#syncAll();
    const [name] = this.#dirty;
    const syncing = this.#segments.sync(name!);
    if (syncing !== undefined) return syncing.then(() => this.#dirty.clear());
    this.#dirty.clear();
    return undefined;
  }

  async #syncAll(): Promise<void> {
    for (const name of this.#dirty) await this.#segments.sync(name);
    this.#dirty.clear();
    for (const start of this.#full) {
      const name = this.#names.get(start)!;
      if (name.endsWith(partialSuffix)) await this.#rename(start, name, segmentFileName(start));
    }
    this.#full.clear();
  }

  /** Cuts the log off at `lsn`, durably. An empty log begins there. */
  async truncate(lsn: Lsn): Promise<void> {
    if (this.#startLsn === invalidLsn) {
      this.#startLsn = lsn;
      this.#writeLsn = lsn;
      return;
    }
    assert(
      lsn >= this.#startLsn && lsn <= this.#writeLsn,
      `cut at ${formatLsn(lsn)}, log ends at ${formatLsn(this.#writeLsn)}`,
    );
    this.#tail.truncate(lsn);
    this.#full.clear();
    // From the end, so that a crash in between leaves a log without holes.
    for (const start of [...this.#names.keys()].sort((a, b) => b - a)) {
      if (start >= lsn && start !== segmentStart(lsn)) await this.#removeSegment(start);
    }
    const start = segmentStart(lsn);
    const name = this.#names.get(start);
    if (name !== undefined) {
      const partial = segmentFileName(start) + partialSuffix;
      if (name !== partial) await this.#rename(start, name, partial);
      await this.#segments.zeroFrom(partial, lsn - start);
      this.#dirty.delete(partial);
      this.#filledLsn = lsn;
    }
    this.#unclearedLsn = 0;
    this.#writeLsn = lsn;
  }

  /** Whether a segment lies wholly below `lsn`. */
  hasSegmentBelow(lsn: Lsn): boolean {
    for (const start of this.#names.keys()) if (start + walSegmentSize <= lsn) return true;
    return false;
  }

  /** The log begins at `lsn`: segments wholly below it are removed. That it does must be durable already. */
  async dropBefore(lsn: Lsn): Promise<void> {
    assert(lsn >= this.#startLsn && lsn <= this.#writeLsn, `drop before ${formatLsn(lsn)}`);
    this.#startLsn = lsn;
    for (const start of [...this.#names.keys()]) {
      if (start + walSegmentSize > lsn) continue;
      this.#full.delete(start);
      await this.#removeSegment(start);
    }
  }

  /** Up to `lengthMax` bytes at `lsn`, below writeLsn; at least one. Never past the end of a segment unless it comes from memory. */
  readCached(lsn: Lsn, lengthMax: number): Uint8Array | null {
    return this.#tail.read(lsn, lengthMax);
  }

  /** The same from the file. A file cut short or gone is `corrupt`. */
  async readFile(lsn: Lsn, lengthMax: number): Promise<Uint8Array> {
    const start = segmentStart(lsn);
    const length = Math.min(lengthMax, start + walSegmentSize - lsn, this.#writeLsn - lsn);
    const bytes = await this.#readSegment(start, lsn - start, length);
    if (bytes.length < length) throw this.corrupt((lsn + bytes.length) as Lsn, 'the file is cut short');
    return bytes;
  }

  /** Whether a segment is held from its beginning on, also where the log begins later: not if the log begins in the middle of it, as a peer's did. */
  async holdsHead(segment: Lsn): Promise<boolean> {
    const header = await this.#header(segment);
    return (
      header !== null &&
      new DataView(header.buffer, header.byteOffset, header.byteLength).getUint16(0, true) === walPageMagic
    );
  }

  /** Whether WAL at `lsn`, before the log's beginning, is here nevertheless: the end of the record that ends where the log begins. */
  async holdsEndOfRecordAt(lsn: Lsn): Promise<boolean> {
    const segment = segmentStart(this.#startLsn);
    return lsn >= segment && this.#names.has(segment) && (await this.holdsHead(segment));
  }

  /** Where the first record begins in a segment that is held from its beginning on. Null if nothing of it is here: the log ends before it. */
  async firstBoundary(segment: Lsn): Promise<Lsn | null> {
    const header = await this.#header(segment);
    return header === null ? null : firstBoundaryIn(segment, header);
  }

  /** Null if the log ends before it: no record ends in a header, but one may end where the segment begins. */
  async #header(segment: Lsn): Promise<Uint8Array | null> {
    return this.#writeLsn < segment + longHeaderBytes ? null : this.readFile(segment, longHeaderBytes);
  }

  /** The error for damage at `lsn`. */
  corrupt(lsn: Lsn, problem: string): PageliteError {
    const start = segmentStart(lsn);
    const file = `${this.#label}/${this.#names.get(start) ?? segmentFileName(start)}`;
    return new PageliteError('corrupt', `WAL segment ${file} is damaged at ${formatLsn(lsn)}: ${problem}`, {
      file,
      lsn: formatLsn(lsn),
    });
  }

  async #readSegment(start: number, offset: number, length: number): Promise<Uint8Array> {
    for (;;) {
      const name = this.#names.get(start);
      if (name === undefined) throw this.corrupt((start + offset) as Lsn, 'the file is missing');
      try {
        return await this.#segments.read(name, offset, length);
      } catch (error) {
        if (!isPageliteError(error, 'notFound')) throw error;
        // It may just be getting its final name: it has it on the medium before it has it here.
        await this.#renaming;
        if (name === this.#names.get(start)) throw this.corrupt((start + offset) as Lsn, 'the file is missing');
      }
    }
  }

  async #beginSegment(start: number): Promise<string> {
    const name = segmentFileName(start) + partialSuffix;
    await this.#segments.create(name, walSegmentSize);
    this.#names.set(start, name);
    this.#filledLsn = start;
    return name;
  }

  /** Blocks are given to the file before the WAL comes, a step at a time. */
  async #fillAhead(name: string, start: number): Promise<void> {
    const from = this.#filledLsn;
    const until = Math.min(from - (from % walZeroFillBytes) + walZeroFillBytes, start + walSegmentSize);
    if (until === from) return;
    await this.#segments.write(name, from - start, zeros.subarray(0, until - from));
    this.#filledLsn = until;
  }

  async #rename(start: number, from: string, to: string): Promise<void> {
    const renamed = this.#segments.rename(from, to).then(() => {
      this.#names.set(start, to);
    });
    // A reader waits for it either way; its failure is the writer's to hear.
    this.#renaming = renamed.catch(() => {});
    await renamed;
    if (this.#dirty.delete(from)) this.#dirty.add(to);
  }

  async #removeSegment(start: number): Promise<void> {
    const name = this.#names.get(start)!;
    await this.#segments.remove(name);
    this.#names.delete(start);
    this.#dirty.delete(name);
  }

  async #open({ startLsn, commitLsn, flushedLsn }: WalLogOptions): Promise<void> {
    await this.#readNames(startLsn);
    if (startLsn === invalidLsn) return;
    const end = this.#checkChain(startLsn);
    this.#writeLsn = end; // As far as there are files: the bound of reads.
    const scan = await this.#scanTail(commitLsn, end);
    const lsnEnd = scan.boundaryLsn;
    const knownLsn = Math.max(commitLsn, flushedLsn) as Lsn;
    if (lsnEnd < knownLsn) {
      const problem = scan.problem ?? 'the WAL ends';
      throw this.corrupt(
        scan.problem === null ? lsnEnd : scan.problemLsn,
        `${problem}, though it was durable up to ${formatLsn(knownLsn)}`,
      );
    }
    this.#lastRecordLsn = scan.lastRecordLsn;
    await this.#syncTail(knownLsn, lsnEnd);
    this.#unclearedLsn = end;
    this.#writeLsn = lsnEnd;
    this.#filledLsn = lsnEnd;
    for (const start of this.#names.keys()) if (start + walSegmentSize <= lsnEnd) this.#full.add(start);
  }

  async #readNames(startLsn: Lsn): Promise<void> {
    for (const { name, size } of await this.#segments.list()) {
      const start = segmentOfFile(name);
      if (start === null) continue;
      if (startLsn === invalidLsn) {
        // A segment without a log to belong to: what is in it was never promised to anybody.
        await this.#segments.remove(name);
        continue;
      }
      if (start + walSegmentSize <= startLsn) {
        // Given up, and a crash came between.
        await this.#segments.remove(name);
        continue;
      }
      this.#names.set(start, name);
      if (size < walSegmentSize) throw this.corrupt((start + size) as Lsn, `the file is cut short: ${size} bytes`);
    }
  }

  /** Files follow one another from startLsn on; returns where the last one ends. */
  #checkChain(startLsn: Lsn): Lsn {
    if (this.#names.size === 0) return startLsn;
    const last = Math.max(...this.#names.keys());
    for (let start = segmentStart(startLsn) as number; start < last; start += walSegmentSize) {
      if (!this.#names.has(start)) throw this.corrupt(start as Lsn, 'the file is missing');
    }
    return (last + walSegmentSize) as Lsn;
  }

  /** Records from `from` on, until one is not whole. */
  async #scanTail(from: Lsn, end: Lsn): Promise<RecordScan> {
    const scan = new RecordScan(from, invalidLsn, this.boundaries);
    if (from > end) throw this.corrupt(end, `the WAL ends, though it was committed up to ${formatLsn(from)}`);
    while (scan.position < end) {
      const bytes = await this.readFile(scan.position, scanStepBytes);
      if (!scan.feed(bytes)) break;
    }
    return scan;
  }

  /** What a process wrote that ended before it could synchronise it is in the page cache only: nobody may count on it yet. */
  async #syncTail(from: Lsn, end: Lsn): Promise<void> {
    for (const [start, name] of this.#names) {
      if (start < end && start + walSegmentSize > from && from < end) await this.#segments.sync(name);
    }
  }

  /** After the last record there are only zeros: a torn write's remains must not come back as WAL. */
  async #clearTail(): Promise<void> {
    for (let at = this.#writeLsn as number; at < this.#unclearedLsn; ) {
      const start = segmentStart(at);
      const length = Math.min(clearStepBytes, start + walSegmentSize - at);
      const found = firstNonZero(await this.#readSegment(start, at - start, length));
      if (found >= 0) {
        this.#log.warn('cut off a torn end of the WAL', {
          folder: this.#label,
          lsnEnd: formatLsn(this.#writeLsn),
          remainsAt: formatLsn((at + found) as Lsn),
        });
        await this.truncate(this.#writeLsn);
        return;
      }
      at += length;
    }
    this.#unclearedLsn = 0;
  }
}

/** The LSN at which the segment in this file starts; null if the file is something else. */
function segmentOfFile(name: string): Lsn | null {
  return parseSegmentFileName(name.endsWith(partialSuffix) ? name.slice(0, -partialSuffix.length) : name);
}

export function isSegmentName(name: string): boolean {
  return segmentOfFile(name) !== null;
}

function firstNonZero(bytes: Uint8Array): number {
  // Four bytes at a time where they are aligned: the first write looks through up to 16 MB of zeros.
  let at = 0;
  if (bytes.byteOffset % 4 === 0) {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
    let word = 0;
    while (word < words.length && words[word] === 0) word++;
    at = word * 4;
  }
  for (; at < bytes.length; at++) if (bytes[at] !== 0) return at;
  return -1;
}
