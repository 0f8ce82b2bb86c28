/**
 * The backend's thread: gives PGlite's one Postgres backend its clients' messages, one session at a time, and blocks on them.
 *
 * Step on the path: in ring -> `#onRead` (the backend's recv) -> PostgreSQL -> `#onWrite` (its send) -> error-details.ts -> out ring. The thread never
 * goes back to its event loop: it sleeps in `Atomics.wait`, between commands as well as inside COPY FROM STDIN or a full out ring.
 *
 * Invariants
 * - The backend is given one message at a time, never bytes of the next: between messages its own buffer is empty, so that sessions
 *   can be exchanged there, and the type of the message under way (`#frameType`) is known.
 * - ReadyForQuery has been sent exactly when the last message was Query, FunctionCall or Sync, and was not skipped (`#atBoundary`).
 * - After every command-level message a `ready` goes out behind the message's output; control messages are read only there.
 * - With `signal.clientGone` the backend reads no more of that client: inside a message it reads bytes that no message may contain
 *   (so that a half statement is refused, never run), where COPY wants the next message a CopyFail; its output is dropped.
 *
 * PostgreSQL's ERROR unwinds to `_PostgresMainLoopOnce` as a thrown ExitStatus 100 and is finished by `_PostgresMainLongJmp`. Any other
 * throw is the end of this backend (FATAL, PANIC, a trap): it leaves `serve` as an error, and the thread with it.
 */
import { concatBytes } from '../../engine/bytes.ts';
import { PageliteError } from '../../engine/errors.ts';
import { type FailedReads, withDetail } from '../../smgr-plugin/error-detail.ts';
import { type BackendModule, checkLayout, writeWord } from './backend-layout.ts';
import { BackendTimers } from './backend-timers.ts';
import { ErrorDetails } from './error-details.ts';
import { frame, parseRows } from './own-statements.ts';
import { attachSharedWire, backendState, type SharedWire, signal, word } from './ring.ts';
import {
  controlType,
  decodeControl,
  encodeControl,
  type IdentifyMessage,
  type ListensMessage,
  type OpenedMessage,
  type OpenMessage,
  type ReadyMessage,
  readyBytes,
  type SwitchMessage,
  writeReady,
} from './session-protocol.ts';
import { BackendSqlError, SessionStates } from './session-state.ts';

/** What `runBackend` needs of a PGlite. */
export interface BackendOwner {
  readonly Module: unknown;
  /** Absent: its storage does not fail. */
  readonly failedReads?: FailedReads;
}

export interface BackendDoor {
  /** Tells the listener that there is something in the out ring. */
  ring(): void;
  /** Tells the listener when the earliest of the backend's timers is due, in ms since the epoch. */
  timer(dueAt: number): void;
}

/** Status of the thrown ExitStatus with which PostgreSQL's ERROR comes out of its main loop. */
const mainLongJmp = 100;
/** The byte that completes a message whose client is gone: no string ends in it, no count fits. */
const poison = 0xff;

const charCode = (text: string) => text.charCodeAt(0);
const typeQuery = charCode('Q');
const typeFunctionCall = charCode('F');
const typeSync = charCode('S');
const typeReadyForQuery = charCode('Z');

/**
 * Serves clients until the listener says `shutdown`. Takes the PGlite over: its own query API works before and after, not during.
 * Throws when the backend has ended by itself.
 */
export function runBackend(pglite: BackendOwner, buffer: SharedArrayBuffer, door: BackendDoor): void {
  const thread = new BackendThread(pglite, attachSharedWire(buffer), door);
  thread.serve();
}

class BackendThread {
  readonly #owner: BackendOwner;
  readonly #module: BackendModule;
  readonly #wire: SharedWire;
  readonly #words: Int32Array;
  readonly #door: BackendDoor;
  readonly #sessions: SessionStates;
  readonly #timers: BackendTimers;
  readonly #details: ErrorDetails;
  /** Reads that had failed before the present command or statement of our own began. */
  #failedBefore = 0;
  readonly #header = new Uint8Array(5);
  readonly #ready = new DataView(new ArrayBuffer(readyBytes));
  readonly #readyBytes = new Uint8Array(this.#ready.buffer);
  /** Bytes of the present message that the backend has not read yet. */
  #frameLeft = 0;
  #frameType = 0;
  #consumed = 0;
  /** A message in a gone client's name that the backend has not read yet. */
  #pretended: Uint8Array = new Uint8Array(0);
  #atBoundary = true;
  /** After an ERROR in the extended protocol PostgreSQL skips everything up to the next Sync, Query messages too. */
  #skipsToSync = false;
  #inCommand = false;
  /** The present session could not be restored: its messages are dropped. */
  #lost = false;
  /** Our own SQL: where the backend reads from, and what it has answered. */
  #ownInput: Uint8Array | null = null;
  #ownOffset = 0;
  #ownOutput: Uint8Array[] = [];

  constructor(owner: BackendOwner, wire: SharedWire, door: BackendDoor) {
    const module = owner.Module as BackendModule;
    checkLayout(module);
    this.#owner = owner;
    this.#module = module;
    this.#details = new ErrorDetails(
      () => this.#failureReason(),
      (bytes, start, end) => this.#push(bytes, start, end),
    );
    this.#wire = wire;
    this.#words = wire.words;
    this.#door = door;
    this.#timers = new BackendTimers((dueAt) => door.timer(dueAt));
    const read = module.addFunction((pointer, max) => this.#onRead(pointer, max), 'ipi');
    const write = module.addFunction((pointer, length) => this.#onWrite(pointer, length), 'ipi');
    module._pgl_set_rw_cbs(read, write);
    this.#reportSettings();
    this.#sessions = new SessionStates(module, (sql) => this.#runSql(sql));
    this.#sessions.guard = (work) => this.#guardDirectCalls(work);
  }

  serve(): void {
    this.#timers.install();
    const onInterrupt = () => this.#interrupt();
    (globalThis as Record<symbol, unknown>)[interruptHook] = onInterrupt;
    try {
      this.#sendReady();
      while (this.#nextCommand()) {
        this.#frameType < 0x20 ? this.#control() : this.#command();
      }
    } finally {
      delete (globalThis as Record<symbol, unknown>)[interruptHook];
      this.#timers.uninstall();
    }
  }

  /** PostgreSQL reports changed settings from its startup on; PGlite leaves that part of the startup to its caller. */
  #reportSettings(): void {
    this.#ownInput = new Uint8Array(0);
    this.#ownOutput = [];
    this.#module._pgl_sendConnData();
    this.#module._pgl_pq_flush();
    this.#ownInput = null;
  }

  /** Waits for the next message and takes its header. False at shutdown. */
  #nextCommand(): boolean {
    const inbound = this.#wire.inbound;
    for (;;) {
      const wake = Atomics.load(this.#words, word.wake);
      const signals = Atomics.load(this.#words, word.signals);
      if ((signals & signal.shutdown) !== 0) return false;
      if ((signals & signal.clientGone) !== 0) this.#skipGoneClient();
      if (inbound.used >= 5) break;
      // The statement that a cancel was meant for has ended: it cancels nothing, as in PostgreSQL.
      Atomics.and(this.#words, word.signals, ~signal.cancel);
      this.#wait(wake, backendState.waitsForCommand);
    }
    this.#takeHeader();
    return true;
  }

  /** Everything that a gone client has sent and the backend has not read. */
  #skipGoneClient(): void {
    writeWord(this.#module, this.#module._QueryCancelPending, 0);
    const left = (Atomics.load(this.#words, word.goneAt) - this.#wire.inbound.tailPosition) | 0;
    if (left > 0) this.#wire.inbound.skip(left);
    Atomics.and(this.#words, word.signals, ~signal.clientGone);
  }

  #takeHeader(): void {
    this.#wire.inbound.peek(this.#header, 0, 5);
    this.#frameType = this.#header[0]!;
    const length = new DataView(this.#header.buffer).getUint32(1);
    this.#frameLeft = 1 + length;
  }

  #wait(wake: number, state: number): void {
    Atomics.store(this.#words, word.state, state);
    Atomics.wait(this.#words, word.wake, wake);
    Atomics.store(this.#words, word.state, backendState.running);
  }

  #command(): void {
    const type = this.#frameType;
    this.#consumed = (this.#consumed + 1) >>> 0;
    if (this.#lost) {
      this.#dropFrame();
      return;
    }
    this.#inCommand = true;
    this.#failedBefore = this.#failedReads;
    const failed = this.#loopOnce();
    this.#inCommand = false;
    // The backend has read the whole message, unless it was refused by its type or length alone.
    this.#dropFrame();
    const ends = type === typeQuery || type === typeSync || type === typeFunctionCall;
    if (type === typeSync) this.#skipsToSync = false;
    else if (failed && !ends) this.#skipsToSync = true;
    this.#atBoundary = ends && !this.#skipsToSync;
    this.#finishCommand();
  }

  #finishCommand(): void {
    if (this.#atBoundary && this.#module._IsTransactionBlock() === 0) {
      const channels = this.#sessions.beforeNotifications();
      if (channels !== null) this.#sendListens({ client: this.#sessions.currentClient, channels });
    }
    try {
      this.#module._PostgresSendReadyForQueryIfNecessary();
    } finally {
      this.#sessions.afterNotifications();
    }
    this.#sendReady();
  }

  get #failedReads(): number {
    return this.#owner.failedReads?.count ?? 0;
  }

  /** Why reads have failed since the present command began; null if none did. */
  #failureReason(): string | null {
    return this.#failedReads === this.#failedBefore ? null : (this.#owner.failedReads?.reason ?? null);
  }

  #backendEnded(cause: unknown): PageliteError {
    const status = (cause as { status?: unknown } | null)?.status;
    const how = typeof status === 'number' ? `exit status ${status}` : String(cause);
    const reason = this.#failureReason();
    const message = `the backend has ended: ${how}${reason === null ? '' : `: ${reason}`}`;
    return new PageliteError('closed', message, {}, { cause });
  }

  /** One message, up to and including recovery from an ERROR. True if there was one. */
  #loopOnce(): boolean {
    const module = this.#module;
    try {
      module._PostgresMainLoopOnce();
      return false;
    } catch (error) {
      if (!isMainLongJmp(error)) throw this.#backendEnded(error);
      this.#recover();
      return true;
    }
  }

  #recover(): void {
    // A second ERROR while the first is reported is recovered from in turn; PostgreSQL itself ends an endless chain of them.
    for (;;) {
      try {
        this.#module._PostgresMainLongJmp();
        return;
      } catch (error) {
        if (!isMainLongJmp(error)) throw this.#backendEnded(error);
      }
    }
  }

  #dropFrame(): void {
    while (this.#frameLeft > 0) {
      const wake = Atomics.load(this.#words, word.wake);
      const count = Math.min(this.#frameLeft, this.#clientBytes());
      this.#wire.inbound.skip(count);
      this.#frameLeft -= count;
      if (this.#frameLeft > 0 && count === 0) {
        if (this.#isClientGone()) this.#frameLeft = 0;
        else this.#wait(wake, backendState.waitsForInput);
      }
    }
  }

  #isClientGone(): boolean {
    return (Atomics.load(this.#words, word.signals) & signal.clientGone) !== 0;
  }

  /** Bytes in the in ring that are the present client's. */
  #clientBytes(): number {
    const inbound = this.#wire.inbound;
    if (!this.#isClientGone()) return inbound.used;
    return Math.max(0, (Atomics.load(this.#words, word.goneAt) - inbound.tailPosition) | 0);
  }

  #onRead(pointer: number, max: number): number {
    if (this.#ownInput !== null) return this.#readOwn(pointer, max);
    for (;;) {
      if (this.#pretended.length > 0) return this.#readPretended(pointer, max);
      const wake = Atomics.load(this.#words, word.wake);
      this.#lookAtSignals();
      const gone = this.#isClientGone();
      if (this.#frameLeft === 0) {
        // Inside a command: COPY FROM STDIN wants the next message.
        if (this.#clientBytes() >= 5) {
          this.#takeHeader();
          this.#consumed = (this.#consumed + 1) >>> 0;
        } else if (gone) {
          this.#pretended = copyFail;
          continue;
        }
      }
      if (this.#frameLeft > 0) {
        const count = Math.min(max, this.#frameLeft, this.#clientBytes());
        if (count > 0) {
          this.#wire.inbound.read(this.#module.HEAPU8, pointer, count);
          this.#frameLeft -= count;
          return count;
        }
        if (gone) {
          const filled = Math.min(max, this.#frameLeft);
          this.#module.HEAPU8.fill(poison, pointer, pointer + filled);
          this.#frameLeft -= filled;
          return filled;
        }
      }
      this.#ringDoorbell();
      this.#wait(wake, backendState.waitsForInput);
    }
  }

  #readPretended(pointer: number, max: number): number {
    const part = this.#pretended.subarray(0, max);
    this.#module.HEAPU8.set(part, pointer);
    this.#pretended = this.#pretended.subarray(part.length);
    return part.length;
  }

  #readOwn(pointer: number, max: number): number {
    const input = this.#ownInput!;
    const count = Math.min(max, input.length - this.#ownOffset);
    this.#module.HEAPU8.set(input.subarray(this.#ownOffset, this.#ownOffset + count), pointer);
    this.#ownOffset += count;
    return count;
  }

  #onWrite(pointer: number, length: number): number {
    if (this.#ownInput !== null) {
      this.#ownOutput.push(this.#module.HEAPU8.slice(pointer, pointer + length));
      return length;
    }
    this.#details.push(this.#module.HEAPU8, pointer, pointer + length);
    // ReadyForQuery is followed by our own `ready` at once, which rings.
    if (!endsInReadyForQuery(this.#module.HEAPU8, pointer, length)) this.#ringDoorbell();
    return length;
  }

  /** Writes to the out ring, waiting for room. Nothing more goes to a client that is gone. */
  #push(bytes: Uint8Array, start: number, end: number): void {
    for (let at = start; at < end; ) {
      const wake = Atomics.load(this.#words, word.wake);
      this.#lookAtSignals();
      at += this.#wire.outbound.write(bytes, at, end);
      if (at < end) {
        this.#ringDoorbell();
        this.#wait(wake, backendState.waitsForRoom);
      }
    }
  }

  #ringDoorbell(): void {
    if (Atomics.exchange(this.#words, word.doorbell, 1) === 0) this.#door.ring();
  }

  #sendReady(): void {
    writeReady(this.#ready, this.#readyMessage());
    this.#push(this.#readyBytes, 0, readyBytes);
    this.#ringDoorbell();
  }

  #readyMessage(): ReadyMessage {
    const inBlock = this.#module._IsTransactionBlock() !== 0;
    const aborted = inBlock && this.#module._IsAbortedTransactionBlockState() !== 0;
    const idle = this.#atBoundary && !inBlock;
    return {
      status: !this.#atBoundary ? 'P' : aborted ? 'E' : inBlock ? 'T' : 'I',
      pinned: idle && this.#sessions.isPinned,
      consumed: this.#consumed,
      idleInTransactionMs: this.#sessions.idleInTransactionMs,
      idleSessionMs: this.#sessions.idleSessionMs,
    };
  }

  #sendListens(message: ListensMessage): void {
    this.#sendControl(controlType.listens, message);
  }

  #sendControl(type: number, message: object): void {
    const bytes = encodeControl(type, message);
    this.#push(bytes, 0, bytes.length);
    this.#ringDoorbell();
  }

  #control(): void {
    const type = this.#frameType;
    const bytes = new Uint8Array(this.#frameLeft);
    // Control messages are written whole, and are smaller than the ring.
    this.#wire.inbound.read(bytes, 0, bytes.length);
    this.#frameLeft = 0;
    const body = bytes.subarray(5);
    if (type === controlType.open) this.#open(decodeControl<OpenMessage>(body));
    else if (type === controlType.switch) this.#switch(decodeControl<SwitchMessage>(body).client);
    else if (type === controlType.close) this.#close(decodeControl<SwitchMessage>(body).client);
    else if (type === controlType.prepare) this.#prepare(body);
    else if (type === controlType.identify) this.#identify(decodeControl<IdentifyMessage>(body));
    else throw new PageliteError('invalid', `unknown control message ${type}`);
  }

  #identify(message: IdentifyMessage): void {
    this.#sendControl(controlType.identified, this.#sessions.identify(message));
    this.#sendReady();
  }

  #open(message: OpenMessage): void {
    let opened: OpenedMessage;
    try {
      opened = this.#sessions.open(message);
    } catch (error) {
      if (!(error instanceof BackendSqlError)) throw error;
      opened = { client: message.client, parameters: null, error: error.fields };
    }
    this.#sendControl(controlType.opened, opened);
    this.#sendReady();
  }

  #switch(client: number): void {
    try {
      this.#sessions.switchTo(client);
    } catch (error) {
      if (!(error instanceof BackendSqlError)) throw error;
      this.#sendControl(controlType.lost, { client, error: error.fields });
      // Until the listener has closed it, its statements must not run under settings that are not its own.
      this.#lost = true;
    }
  }

  /** The client's transaction, if any, is rolled back first; an unfinished pipeline is ended with a Sync. */
  #close(client: number): void {
    this.#lost = false;
    if (this.#sessions.currentClient === client) {
      if (!this.#atBoundary) this.#runOwn(frame('S', new Uint8Array(0)));
      this.#atBoundary = true;
      this.#skipsToSync = false;
      if (this.#module._IsTransactionBlock() !== 0) this.#runSql('rollback');
    }
    this.#sessions.close(client);
    this.#sendControl(controlType.closed, { client, consumed: this.#consumed });
    this.#sendReady();
  }

  /** The client believes the statement prepared: if it is not, a warning says why before its Bind fails. */
  #prepare(parse: Uint8Array): void {
    try {
      this.#runOwn(parse);
    } catch (error) {
      if (!(error instanceof BackendSqlError)) throw error;
      const text = `a statement could not be prepared: ${error.message}`;
      const fields = `SWARNING\0VWARNING\0C${error.code}\0M${text}\0\0`;
      const notice = frame('N', new TextEncoder().encode(fields));
      this.#push(notice, 0, notice.length);
    }
    this.#runOwn(frame('S', new Uint8Array(0)));
  }

  /** Runs a simple query of our own; rows as text. */
  #runSql(sql: string): (string | null)[][] {
    const text = new TextEncoder().encode(sql);
    const body = new Uint8Array(text.length + 1);
    body.set(text);
    return this.#runOwn(frame('Q', body));
  }

  #runOwn(input: Uint8Array): (string | null)[][] {
    this.#ownInput = input;
    this.#ownOffset = 0;
    this.#ownOutput = [];
    this.#failedBefore = this.#failedReads;
    try {
      this.#loopOnce();
      this.#module._PostgresSendReadyForQueryIfNecessary();
      this.#module._pgl_pq_flush();
      return this.#ownRows();
    } finally {
      this.#ownInput = null;
    }
  }

  /** What the backend has answered to ourselves. */
  #ownRows(): (string | null)[][] {
    const reason = this.#failureReason();
    const answer = concatBytes(this.#ownOutput);
    return parseRows(reason === null ? answer : withDetail(answer, reason));
  }

  /** Direct calls into the backend can raise ERROR, too. */
  #guardDirectCalls<T>(work: () => T): T {
    this.#ownInput = new Uint8Array(0);
    this.#ownOffset = 0;
    this.#ownOutput = [];
    this.#failedBefore = this.#failedReads;
    try {
      return work();
    } catch (error) {
      if (!isMainLongJmp(error)) throw this.#backendEnded(error);
      this.#recover();
      this.#module._PostgresSendReadyForQueryIfNecessary();
      this.#module._pgl_pq_flush();
      this.#ownRows();
      throw new BackendSqlError('XX000', 'a setting of the session could not be put back');
    } finally {
      this.#ownInput = null;
    }
  }

  /** While the backend waits inside a statement: cancel, and the end of its client. */
  #lookAtSignals(): void {
    const signals = Atomics.load(this.#words, word.signals);
    if ((signals & (signal.cancel | signal.clientGone | signal.timer)) !== 0) this.#interrupt();
  }

  /**
   * Sets what PostgreSQL's own signal handlers would. Called while the backend waits, or, by the listener through the inspector, in
   * the middle of a running statement: PostgreSQL looks at these flags in CHECK_FOR_INTERRUPTS.
   */
  #interrupt(): void {
    // Before PostgreSQL has read its command, it would take a cancel for one that came too late, and an idle timeout, which stays
    // armed until then, would end the backend (idle timeouts are the listener's to keep). The listener repeats itself.
    if (!this.#inCommand || this.#frameLeft > 0 || this.#ownInput !== null) return;
    const signals = Atomics.load(this.#words, word.signals);
    if ((signals & signal.timer) !== 0) {
      Atomics.and(this.#words, word.signals, ~signal.timer);
      this.#timers.runDue();
    }
    if ((signals & (signal.cancel | signal.clientGone)) === 0) return;
    // A gone client stays gone until its session is closed; a cancel is for one statement.
    Atomics.and(this.#words, word.signals, ~signal.cancel);
    writeWord(this.#module, this.#module._QueryCancelPending, 1);
    writeWord(this.#module, this.#module._InterruptPending, 1);
    // Sets the backend's latch, which pg_sleep and its like wait for, and finds nothing else to do.
    this.#module._procsignal_sigusr1_handler(0);
  }
}

/** The listener evaluates a call of this in the backend's thread; see interrupter.ts. */
export const interruptHookName = 'pagelite.interrupt';
const interruptHook = Symbol.for(interruptHookName);

/** An end of file inside a COPY would cost the backend ("protocol synchronization was lost" is FATAL); a CopyFail costs the statement. */
const copyFail = frame('f', new TextEncoder().encode('the client is gone\0'));

function isMainLongJmp(error: unknown): boolean {
  return (error as { status?: unknown } | null)?.status === mainLongJmp;
}

function endsInReadyForQuery(bytes: Uint8Array, pointer: number, length: number): boolean {
  if (length < 6) return false;
  const at = pointer + length - 6;
  return bytes[at] === typeReadyForQuery && bytes[at + 1] === 0 && bytes[at + 4] === 5;
}
