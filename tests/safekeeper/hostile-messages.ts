/**
 * Attacks a safekeeper with what nobody should send: the messages of real conversations, changed, cut, in the wrong order, of others. Driven by
 * hostile-messages.test.ts.
 *
 * Every attempt is a safekeeper of its own, in which two proposers of one timeline have their say, message by message as it was recorded; at one place
 * something else comes. An attempt is repeated by the seed and its number.
 *
 * What must hold, whatever comes
 * - nothing is thrown outside of the safekeeper, and no timeline stops
 * - a connection ends only with an error that has a name (`endings`), which its peer is told first
 * - a message that is refused leaves control file, WAL and files as they were: only an unfinished record may go, and commitLsn may be told to the file
 * - WAL comes only from who was elected in its term over the same connection
 * - a message that is taken (it may be one that is as good as another) leaves WAL below commitLsn as it was; terms, commitLsn never go down; a term has one
 *   ruler; what is acknowledged is stored, whole records of it
 * - nothing is made for another tenant
 * - afterwards a proposer that keeps the protocol is elected, goes on from where the WAL ends, commits, and reads all of it back; also from what is stored
 *
 * Compared is what lies in the storage, read beside the safekeeper.
 */
import { accessRefused, isPageliteError, PageliteError } from '../../engine/errors.ts';
import { pgVersionNumber, walSegmentSize } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import {
  decodeAcceptorMessage,
  decodeProposerMessage,
  type ProposerMessage,
} from '../../engine/protocol/proposer-acceptor.ts';
import { createChannelPair } from '../../engine/remote/channel-pair.ts';
import {
  type ControlState,
  controlFileName,
  decodeControlFile,
  encodeControlFile,
} from '../../engine/safekeeper/control-file.ts';
import type { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { Channel } from '../../engine/services.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';
import {
  type AttackReport,
  check,
  checkEnding,
  elect,
  newSafekeeper,
  outside,
  type Recording,
  recordConversations,
  type Script,
  same,
  serviceOf,
  soon,
  startLsn,
  storedBytes,
  turn,
} from './hostile-ground.ts';
import { ReaderAttempts } from './hostile-readers.ts';
import { LeanStorage } from './lean-storage.ts';
import { mutate } from './mutate-message.ts';

export interface AttackOptions {
  readonly seed: number;
  /** How many attempts, from `first` on. */
  readonly count: number;
  readonly first?: number;
}

/** How many messages after the changed one are looked at one by one. */
const watchedMessages = 5;
/** Each so many attempts in which a message was refused a proposer that keeps the protocol comes all the same, and each so many the safekeeper starts again. */
const honestEvery = 8;
const restartEvery = 256;
/** One in so many attempts is a reader's (hostile-readers.ts). */
const readerEvery = 5;

/** Throws what did not hold, with the attempt's number. */
export async function attack(options: AttackOptions): Promise<AttackReport> {
  const report: AttackReport = { refused: {}, taken: 0, elected: 0 };
  const recording = await recordConversations(new SeededRandom(options.seed));
  const first = options.first ?? 0;
  let readers: ReaderAttempts | null = null;
  await outside.watch(async () => {
    for (let number = first; number < first + options.count; number++) {
      const random = new SeededRandom(options.seed ^ Math.imul(number + 1, 0x9e3779b1));
      try {
        if (number % readerEvery === 0) {
          if (readers === null || number % 1000 === 0) {
            readers = new ReaderAttempts(recording, report);
            await readers.prepare();
          }
          await soon(readers.run(random), 'the end of the attempt');
        } else {
          await soon(new Attempt(recording, random, report).run(number), 'the end of the attempt');
        }
        outside.check();
      } catch (error) {
        // What was thrown elsewhere came first.
        const cause = (outside.errors.shift() ?? error) as Error;
        throw new Error(`seed ${options.seed}, attempt ${number}: ${cause.message}`, { cause });
      }
    }
  });
  return report;
}

/** What a storage holds of a timeline. */
interface Stored {
  readonly control: Uint8Array;
  readonly files: string;
  /** Of the segment in which the recorded WAL lies. */
  readonly wal: Uint8Array;
  /** As the safekeeper says. */
  readonly flushLsn: number;
  readonly commitLsn: number;
}

class Attempt {
  readonly #recording: Recording;
  readonly #random: SeededRandom;
  readonly #report: AttackReport;
  readonly #storage = new LeanStorage();
  #safekeeper = newSafekeeper(this.#storage);
  /** Whom each term was given to. */
  readonly #rulers = new Map<number, string>();
  #refused = 0;

  constructor(recording: Recording, random: SeededRandom, report: AttackReport) {
    this.#recording = recording;
    this.#random = random;
    this.#report = report;
  }

  async run(number: number): Promise<void> {
    const { scripts } = this.#recording;
    let place = this.#random.below(scripts.reduce((sum, script) => sum + script.length, 0));
    let watched = 0;
    for (const script of scripts) {
      const link = new Link(this, this.#safekeeper, this.#recording, this.#random.chance(0.5));
      for (const [at, message] of script.entries()) {
        if (place-- === 0) {
          watched = 1;
          await this.#attack(link, script, at);
        } else if (watched > 0 && watched <= watchedMessages) {
          watched++;
          await this.#watch(link, [message]);
        } else {
          link.send(message);
          if (at === 0) await turn();
        }
        if (link.ended) break;
      }
      await turn();
      link.close();
      await turn();
    }
    if (this.#refused === 0) this.#report.taken++;
    if (this.#refused === 0 || number % honestEvery === 0) await this.#goOn(number % restartEvery === 0);
    for (const { tenantId } of await this.#storage.listTimelines()) {
      check(tenantId === this.#recording.victim.tenantId, "another tenant's timeline was made");
    }
  }

  async #attack(link: Link, script: Script, at: number): Promise<void> {
    const random = this.#random;
    const message = script[at]!;
    const { fork, stranger } = this.#recording;
    const others = [script, ...fork, stranger];
    switch (random.below(12)) {
      case 0: // It never comes.
        return;
      case 1: // Twice.
        return this.#watch(link, [message, message]);
      case 2: // Out of order.
        return this.#watch(link, [random.pick(script), message]);
      case 3: // Of another conversation.
        return this.#watch(link, [random.pick(random.pick(others)), message]);
      case 4: // In its place.
        return this.#watch(link, [random.pick(random.pick(others))]);
      case 5: {
        // A rival comes over a connection of its own, from its first message on.
        const rival = new Link(this, this.#safekeeper, this.#recording, random.chance(0.5));
        const all = random.pick(others);
        await this.#watch(rival, all.slice(0, 1 + random.below(all.length)));
        await this.#watch(link, [message]);
        rival.close();
        return;
      }
      default:
        return this.#watch(link, [mutate(message, random)]);
    }
  }

  /** Sends messages one by one, and compares what is stored before and after each. */
  async #watch(link: Link, messages: readonly Uint8Array[]): Promise<void> {
    await turn();
    let before = await this.#stored();
    for (const message of messages) {
      if (link.ended) return;
      link.send(message);
      await turn();
      const after = await this.#stored();
      if (link.ended !== null) {
        this.#refused++;
        const { kind } = link.ended;
        this.#report.refused[kind] = (this.#report.refused[kind] ?? 0) + 1;
        this.#checkRefused(before, after, link.ended);
      }
      this.#checkKept(before, after, message);
      this.#checkWriter(before, after, message, link);
      before = after;
    }
  }

  /** Null if there is no such timeline. */
  async #stored(): Promise<Stored | null> {
    const timeline = await this.#storage.openTimeline(this.#recording.victim);
    const control = await timeline?.readFile(controlFileName);
    if (!timeline || !control) return null;
    const files = await timeline.segments.list();
    const first = files.find(({ name }) => name.startsWith('000000010000000000000001'));
    const status = await this.#safekeeper.getStatus(this.#recording.victim);
    return {
      control,
      files: files.map(({ name, size }) => `${name} ${size}`).join(),
      wal: first ? await timeline.segments.read(first.name, 0, storedBytes) : new Uint8Array(0),
      flushLsn: status!.flushLsn,
      commitLsn: status!.commitLsn,
    };
  }

  #checkRefused(before: Stored | null, after: Stored | null, error: PageliteError): void {
    if (before === null || after === null) {
      check(before === after, `a refused message made a timeline: ${error.message}`);
      return;
    }
    if (!same(before.control, after.control)) {
      const told = encodeControlFile({ ...this.#control(before), commitLsn: before.commitLsn as Lsn });
      check(same(told, after.control), `a refused message changed the control file: ${error.message}`);
    }
    check(before.files === after.files, `a refused message changed files: ${before.files}, then ${after.files}`);
    check(before.flushLsn === after.flushLsn, `a refused message moved flushLsn: ${error.message}`);
    check(before.commitLsn === after.commitLsn, `a refused message moved commitLsn: ${error.message}`);
    if (same(before.wal, after.wal)) return;
    // What of a record was there before its end came, which will not come now, goes with it.
    check(/garbage|would be committed/.test(error.message), `a refused message changed WAL: ${error.message}`);
    const kept = Math.max(0, before.flushLsn - walSegmentSize);
    check(same(before.wal.subarray(0, kept), after.wal.subarray(0, kept)), 'whole records were changed');
    check(
      after.wal.subarray(kept).every((byte) => byte === 0),
      'something is left behind the last record',
    );
  }

  /** Of every message, refused or taken. */
  #checkKept(before: Stored | null, after: Stored | null, message: Uint8Array): void {
    if (before === null) return;
    check(after !== null, 'the timeline is gone');
    const [was, is] = [this.#control(before), this.#control(after)];
    check(is.term >= was.term, `term ${is.term} after term ${was.term}`);
    check(is.configuration.generation >= was.configuration.generation, 'an older configuration');
    check(after.commitLsn >= before.commitLsn, 'commitLsn went down');
    check(after.flushLsn >= after.commitLsn, 'commitLsn is ahead of flushLsn');
    check(was.startLsn === 0 || is.startLsn === was.startLsn, 'the log begins elsewhere');
    // A log that begins is at its end, and has no file yet.
    const committed = ({ wal }: Stored) =>
      wal.subarray(was.startLsn - walSegmentSize, before.commitLsn - walSegmentSize);
    check(before.commitLsn <= was.startLsn || same(committed(before), committed(after)), 'committed WAL has changed');
    check(isRecordEnd(after, is, after.flushLsn), 'what counts as durable ends inside a record');
    check(isRecordEnd(after, is, after.commitLsn), 'what is committed ends inside a record');
    if (after.flushLsn < before.flushLsn) {
      check(decoded(message)?.kind === 'proposerElected', 'whole records were cut off by nobody elected');
    }
  }

  /** WAL comes only from who was elected in the term that it is of, and said so over the same connection. */
  #checkWriter(before: Stored | null, after: Stored | null, bytes: Uint8Array, link: Link): void {
    if (before === null || after === null || link.ended !== null) return;
    if (same(before.wal, after.wal) && before.commitLsn === after.commitLsn) return;
    const message = decoded(bytes);
    if (message?.kind !== 'appendRequest') return;
    check(message.term === this.#control(before).term, `WAL of term ${message.term} is taken`);
    check(link.electedTerms.has(message.term), `WAL of term ${message.term} is taken of who was not elected there`);
  }

  #control(stored: Stored): ControlState {
    return decodeControlFile(stored.control, this.#recording.victim, 'control');
  }

  /** Called by a link for each vote that it was given. */
  voted(term: number, proposerId: string): void {
    const ruler = this.#rulers.get(term) ?? proposerId;
    check(ruler === proposerId, `two votes in term ${term}`);
    this.#rulers.set(term, ruler);
  }

  /** A proposer that keeps the protocol, of the system that the safekeeper was told of. */
  async #goOn(restart: boolean): Promise<void> {
    const before = await this.#stored();
    if (restart) {
      await this.#safekeeper.close();
      this.#safekeeper = newSafekeeper(this.#storage);
    }
    const safekeeper = this.#safekeeper;
    const { victim } = this.#recording;
    const known = before && this.#control(before);
    const electing = elect(victim, this.#random, serviceOf(safekeeper), known);
    const isOther = (pgVersion: number) => Math.floor(pgVersion / 10000) !== Math.floor(pgVersionNumber / 10000);
    // 0: not known yet.
    if (known && known.pgVersion !== 0 && isOther(known.pgVersion)) {
      const error: unknown = await electing.catch((reason: unknown) => reason);
      check(isPageliteError(error, 'invalid'), 'a proposer of another PostgreSQL is let in');
      return;
    }
    const driver = await electing;
    const begins = before?.flushLsn || startLsn;
    // A start counts a record that nobody acknowledged, if all that was missing of it are the zeros up to where it is aligned.
    const isFound = restart && before !== null && driver.startLsn > begins;
    check(
      driver.startLsn === begins || (isFound && isRecordEnd(before, known!, driver.startLsn)),
      `goes on at ${formatLsn(driver.startLsn)}, not at ${formatLsn(begins)}`,
    );
    const record = SyntheticWal.afterBoot(driver.startLsn).next(new Uint8Array(200));
    driver.append(record.startLsn, record.bytes);
    await soon(driver.waitCommit(record.endLsn), 'the commit');
    await turn();
    driver.close();
    await turn();
    const after = await this.#stored();
    if (before) this.#checkKept(before, after, new Uint8Array(0));
    this.#checkRecords(after!, record.endLsn);
    await readBack(safekeeper, victim, after!, this.#control(after!).startLsn, record.endLsn);
    this.#report.elected++;
  }

  /** What counts as durable is stored, and whole records. */
  #checkRecords(stored: Stored, endLsn: Lsn): void {
    const { startLsn: begin } = this.#control(stored);
    check(stored.flushLsn === endLsn && stored.commitLsn === endLsn, 'not all of it is committed');
    if (endLsn > walSegmentSize + storedBytes) return;
    const scan = new RecordScan(begin);
    scan.feed(stored.wal.subarray(begin - walSegmentSize, endLsn - walSegmentSize));
    check(
      scan.boundaryLsn === endLsn,
      `records end at ${formatLsn(scan.boundaryLsn)}, not at ${formatLsn(endLsn)}: ${scan.problem}; they begin at ${formatLsn(begin)}`,
    );
  }
}

/** As far as the stored WAL that is compared goes. */
function isRecordEnd({ wal }: Stored, { startLsn: begin }: ControlState, lsn: number): boolean {
  if (begin < walSegmentSize || lsn > walSegmentSize + storedBytes) return true;
  const scan = new RecordScan(begin);
  scan.feed(wal.subarray(begin - walSegmentSize, lsn - walSegmentSize));
  return lsn <= begin || scan.boundaryLsn === lsn;
}

async function readBack(safekeeper: Safekeeper, id: TenantTimelineId, stored: Stored, from: Lsn, to: Lsn) {
  const stop = new AbortController();
  let at = from;
  for await (const { startLsn: lsn, bytes } of safekeeper.readWal(id, from, stop.signal)) {
    check(lsn === at, `WAL is read from ${formatLsn(lsn)}, not from ${formatLsn(at)}`);
    const offset = lsn - walSegmentSize;
    if (to <= walSegmentSize + storedBytes) {
      check(same(stored.wal.subarray(offset, offset + bytes.length), bytes), 'what is read is not what is stored');
    }
    at = (at + bytes.length) as Lsn;
    if (at >= to) break;
  }
  check(at === to, 'WAL cannot be read to its end');
}

/** A connection of a proposer, as a process of its own has it. */
class Link {
  readonly #channel: Channel;
  #told: PageliteError | null = null;
  /** Why the safekeeper ended it; null as long as it has not. */
  ended: PageliteError | null = null;
  #closed = false;
  /** Who asked for a vote over it and was not answered. */
  readonly #candidates: string[] = [];
  /** The terms of the `proposerElected` that were sent; an older one says nothing. */
  readonly electedTerms = new Set<number>();

  /** `named`: made for the victim's timeline; else its greeting alone says which, and a token says which tenant. */
  constructor(attempt: Attempt, safekeeper: Safekeeper, { victim }: Recording, named: boolean) {
    const [near, far] = createChannelPair();
    safekeeper.acceptProposer(far, named ? victim : null, ({ tenantId }) => {
      if (tenantId !== victim.tenantId) throw new PageliteError('invalid', 'access refused', accessRefused);
    });
    this.#channel = near;
    near.onMessage((bytes) => {
      const message = decodeAcceptorMessage(bytes);
      if (message.kind === 'error') this.#told = message.error;
      if (message.kind !== 'voteResponse') return;
      const candidate = this.#candidates.shift();
      check(candidate !== undefined, 'a vote that nobody asked for');
      if (message.voteGiven) attempt.voted(message.term, candidate);
    });
    near.onClose((error) => {
      if (this.#closed) return;
      checkEnding(error, this.#told);
      this.ended = error;
    });
  }

  send(message: Uint8Array): void {
    if (this.ended !== null) return;
    const sent = decoded(message);
    if (sent?.kind === 'voteRequest') this.#candidates.push(sent.proposerId);
    if (sent?.kind === 'proposerElected') this.electedTerms.add(sent.term);
    // Whoever takes a message over may keep a view of it.
    this.#channel.send(message.slice());
  }

  close(): void {
    this.#closed = true;
    this.#channel.close();
  }
}

/** Null if it is no message of a proposer. */
function decoded(bytes: Uint8Array): ProposerMessage | null {
  try {
    return decodeProposerMessage(bytes);
  } catch (error) {
    if (!isPageliteError(error)) throw error;
    return null;
  }
}
