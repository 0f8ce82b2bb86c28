/**
 * Joins many client connections to the one backend: gives turns (session-queue.ts), moves bytes, watches those who hold others up.
 *
 * Step on the path: client-connection.ts -> this -> in ring -> backend-thread.ts -> out ring -> this -> the client's socket.
 *
 * Invariants
 * - At most one turn is under way (`#turn`); all that comes out of the backend belongs to it, notifications apart.
 * - Client bytes fill the in ring only up to `controlReserve`, so that a control message always fits.
 * - A client that has gone is followed by the close of its session before anybody else's turn.
 */
import { assert } from '../../engine/assert.ts';
import type { Log } from '../../engine/services.ts';
import type { ClientConnection } from './client-connection.ts';
import {
  authenticationOk,
  BackendFrames,
  backendKeyData,
  type ErrorFields,
  errorResponse,
  type FrontendBuffer,
  frontendType,
  message,
  parameterStatus,
  parseComplete,
  readyForQuery,
} from './pg-frames.ts';
import { backendState, type SharedWire, signal, wakeBackend, word } from './ring.ts';
import {
  type ClosedMessage,
  controlType,
  decodeControl,
  encodeControl,
  type IdentifiedMessage,
  type ListensMessage,
  type LostMessage,
  type OpenedMessage,
  type ReadyMessage,
  readReady,
  wrapControl,
} from './session-protocol.ts';
import { canEnd, isSettled, standing, TurnGate, TurnQueue, type TurnState } from './session-queue.ts';
import {
  clientBufferBytesMax,
  controlMessageBytesMax,
  inRingBytes,
  type SessionLimits,
  socketBufferBytesMax,
} from './wire-limits.ts';

/** Room that client bytes leave in the in ring. An `open` is only sent when the ring is empty; the others are small. */
const controlReserve = 4096;
const drainChunkBytes = 64 * 1024;
/** A transaction rests when its client has sent nothing for so long. */
const promiseAfterMs = 5;
/** All of a client's promised statements together fit the in ring. */
const promisedParsesMax = 64;
const syncBytes = 5;

interface Turn extends TurnState {
  readonly connection: ClientConnection;
  readonly gate: TurnGate;
  kind: 'identify' | 'open' | 'serve' | 'close';
  ready: ReadyMessage;
  midMessage: boolean;
  sent: number;
  /** When bytes last moved for this turn, either way. */
  movedAt: number;
}

export interface MultiplexerStats {
  readonly turns: number;
  readonly waiting: number;
  readonly sessions: number;
}

export interface MultiplexerHost {
  readonly log: Log;
  readonly limits: SessionLimits;
  now(): number;
  /** Makes a running backend look at its signals. */
  interrupt(): void;
  /** The backend does not answer: give up on it. */
  restart(reason: string): void;
}

export class SessionMultiplexer {
  readonly #host: MultiplexerHost;
  readonly #wire: SharedWire;
  readonly #words: Int32Array;
  readonly #frames: BackendFrames;
  readonly #queue = new TurnQueue<ClientConnection>();
  /** Sessions of clients that have gone, to be closed before anything else. */
  readonly #closing: ClientConnection[] = [];
  /** Sessions that exist in the backend. */
  readonly #sessions = new Set<number>();
  readonly #clients = new Map<number, ClientConnection>();
  readonly #listeners = new Map<string, Set<number>>();
  readonly #waitingSince = new Map<ClientConnection, number>();
  #turn: Turn | null = null;
  /** The session that the backend holds now. */
  #sessionClient = -1;
  #midMessageLeft = 0;
  #sent = 0;
  #ready: ReadyMessage = { status: 'I', pinned: false, consumed: 0, idleInTransactionMs: 0, idleSessionMs: 0 };
  #turns = 0;
  #started = false;
  #muted = false;
  #draining = false;
  #cancelDeadline: { readonly at: number; readonly sent: number } | null = null;

  constructor(wire: SharedWire, host: MultiplexerHost) {
    this.#host = host;
    this.#wire = wire;
    this.#words = wire.words;
    this.#frames = new BackendFrames({
      forward: (bytes) => this.#forward(bytes),
      message: (type, body) => this.#onMessage(type, body),
    });
  }

  stats(): MultiplexerStats {
    return { turns: this.#turns, waiting: this.#queue.length, sessions: this.#sessions.size };
  }

  open(connection: ClientConnection): void {
    this.#clients.set(connection.id, connection);
    this.#join(connection);
    this.pump();
  }

  input(connection: ClientConnection): void {
    if (this.#turn?.connection === connection) this.pump();
    else if (connection.state === 'serving' && this.#wantsTurn(connection)) {
      this.#join(connection);
      this.#promiseParses(this.#host.now());
      this.pump();
    }
  }

  closed(connection: ClientConnection): void {
    this.#clients.delete(connection.id);
    this.#leave(connection);
    for (const listeners of this.#listeners.values()) listeners.delete(connection.id);
    const turn = this.#turn;
    if (turn?.connection === connection) {
      if (turn.kind === 'serve') this.#abandon(turn);
      // An `open` under way is closed once it is answered.
    } else if (this.#sessions.has(connection.id)) this.#closing.push(connection);
    // The backend may wait for room for what nobody will read.
    this.drain();
  }

  /** CancelRequest: the statement under way, or one that waits for its turn. */
  cancel(connection: ClientConnection): void {
    const turn = this.#turn;
    if (turn?.connection === connection) {
      if (turn.kind === 'serve' && !isSettled(turn)) this.#signal(signal.cancel);
      return;
    }
    if (this.#queue.has(connection) && connection.state === 'serving') this.#refuseWaiting(connection, cancelled);
  }

  /** One of PostgreSQL's timers is due. */
  timerDue(): void {
    Atomics.or(this.#words, word.signals, signal.timer);
    wakeBackend(this.#words);
    if (Atomics.load(this.#words, word.state) === backendState.running) this.#host.interrupt();
  }

  /** Takes what the backend has written, as far as its client takes it. */
  drain(): void {
    // What a message brings about (a connection that is let go) may ask for it again: whoever is at it goes on.
    if (this.#draining) return;
    this.#draining = true;
    try {
      this.#takeOutput();
    } finally {
      this.#draining = false;
    }
    this.pump();
  }

  #takeOutput(): void {
    Atomics.store(this.#words, word.doorbell, 0);
    const outbound = this.#wire.outbound;
    for (;;) {
      const turn = this.#turn;
      if (turn !== null && turn.connection.unsentBytes > socketBufferBytesMax && turn.connection.state !== 'closed')
        break;
      const used = outbound.used;
      if (used === 0) break;
      const chunk = Buffer.allocUnsafe(Math.min(used, drainChunkBytes));
      outbound.read(chunk, 0, chunk.length);
      if (Atomics.load(this.#words, word.state) === backendState.waitsForRoom) wakeBackend(this.#words);
      if (turn !== null) turn.movedAt = this.#host.now();
      this.#frames.push(chunk);
    }
  }

  pump(): void {
    if (!this.#started || this.#draining) return;
    this.#endTurn();
    if (this.#turn === null) this.#nextTurn();
    if (this.#turn?.kind === 'serve') this.#send(this.#turn);
  }

  /** Called now and then: ends the turns of clients that hold others up. */
  tick(): void {
    const now = this.#host.now();
    this.#watchCancel(now);
    this.#repeatSignals();
    const turn = this.#turn;
    if (turn === null || turn.kind !== 'serve' || turn.connection.state === 'closed') return;
    this.#watchOwnTimeouts(turn, now);
    if (this.#queue.length === 0) return;
    this.#promiseParses(now);
    this.#watchStall(turn, now);
  }

  /** From here on no client hears what the backend says: they are told why it ends. */
  mute(): void {
    this.#muted = true;
  }

  /** The backend is gone: so are all sessions. */
  abandonAll(fields: Omit<ErrorFields, 'severity'>): void {
    this.#started = false;
    for (const connection of [...this.#clients.values()]) connection.fail(fields);
  }

  #onMessage(type: number, body: Buffer): void {
    if (type === controlType.ready) this.#onReady(readReady(body));
    else if (type === controlType.identified) this.#onIdentified(decodeControl<IdentifiedMessage>(body));
    else if (type === controlType.opened) this.#onOpened(decodeControl<OpenedMessage>(body));
    else if (type === controlType.closed) this.#onClosed(decodeControl<ClosedMessage>(body));
    else if (type === controlType.lost) this.#onLost(decodeControl<LostMessage>(body));
    else if (type === controlType.listens) this.#onListens(decodeControl<ListensMessage>(body));
    else this.#onNotification(body);
  }

  #onReady(ready: ReadyMessage): void {
    this.#started = true;
    this.#ready = ready;
    const turn = this.#turn;
    if (turn === null) return;
    turn.ready = ready;
    turn.movedAt = this.#host.now();
    if (ready.consumed === turn.sent) this.#cancelDeadline = null;
  }

  #onIdentified(identified: IdentifiedMessage): void {
    const turn = this.#turn;
    if (turn === null || turn.connection.id !== identified.client) return;
    this.#turn = null;
    this.#sessionClient = -1;
    turn.connection.challenge(identified);
  }

  #onOpened(opened: OpenedMessage): void {
    const turn = this.#turn;
    if (turn === null || turn.connection.id !== opened.client) return;
    const { connection } = turn;
    this.#turn = null;
    // Also a session that was refused has left the backend in its base state.
    this.#sessionClient = -1;
    if (opened.parameters === null) {
      connection.fail(opened.error ?? { code: 'XX000', message: 'the session could not be opened' });
      return;
    }
    this.#sessions.add(connection.id);
    this.#sessionClient = connection.id;
    if (connection.state === 'closed') {
      this.#closing.push(connection);
      return;
    }
    connection.state = 'serving';
    connection.send(
      Buffer.concat([
        authenticationOk,
        ...opened.parameters.map(([name, value]) => parameterStatus(name, value)),
        backendKeyData(connection.id, connection.secret),
        readyForQuery('I'),
      ]),
    );
    if (this.#wantsTurn(connection)) this.#join(connection);
  }

  #onClosed({ client, consumed }: ClosedMessage): void {
    this.#sessions.delete(client);
    this.#sent = consumed;
    this.#ready = { ...this.#ready, status: 'I', pinned: false, consumed };
    this.#cancelDeadline = null;
    this.#sessionClient = -1;
    this.#turn = null;
  }

  #onLost({ client, error }: LostMessage): void {
    this.#clients.get(client)?.fail(error);
  }

  #onListens(listens: ListensMessage): void {
    for (const listeners of this.#listeners.values()) listeners.delete(listens.client);
    for (const channel of listens.channels) {
      const listeners = this.#listeners.get(channel) ?? new Set();
      this.#listeners.set(channel, listeners.add(listens.client));
    }
  }

  /** NotificationResponse: Int32 process id, channel, payload. To everybody who listens, with the turn or without. */
  #onNotification(body: Buffer): void {
    const channel = body.toString('utf8', 4, body.indexOf(0, 4));
    for (const client of this.#listeners.get(channel) ?? []) this.#clients.get(client)?.send(message('A', body));
  }

  #forward(bytes: Buffer): void {
    if (this.#turn?.kind === 'serve' && !this.#muted) this.#turn.connection.send(bytes);
  }

  #endTurn(): void {
    const turn = this.#turn;
    if (turn === null || turn.kind !== 'serve' || !canEnd(turn)) return;
    const { connection } = turn;
    if (connection.state === 'closed') {
      this.#turn = null;
      return;
    }
    if (this.#queue.length === 0 && this.#closing.length === 0) return;
    this.#turn = null;
    if (this.#wantsTurn(connection)) this.#join(connection);
  }

  #nextTurn(): void {
    const gone = this.#closing.shift();
    if (gone !== undefined) {
      this.#beginTurn(gone, 'close');
      this.#control(controlType.close, { client: gone.id });
      return;
    }
    for (;;) {
      const connection = this.#queue.take();
      if (connection === null) return;
      this.#waitingSince.delete(connection);
      if (connection.state === 'identifying') {
        this.#beginTurn(connection, 'identify');
        this.#control(controlType.identify, { client: connection.id, user: connection.openMessage!.user });
        return;
      }
      if (connection.state === 'opening') {
        const open = encodeControl(controlType.open, connection.openMessage!);
        if (open.length > controlMessageBytesMax) {
          connection.fail({ code: '08P01', message: 'the startup packet is too large' });
          continue;
        }
        this.#beginTurn(connection, 'open');
        this.#write(open);
        return;
      }
      if (connection.state !== 'serving') continue;
      if (connection.input.peekHeader()?.type === frontendType.terminate) {
        connection.destroy();
        continue;
      }
      this.#beginTurn(connection, 'serve');
      if (this.#sessionClient !== connection.id) {
        this.#sessionClient = connection.id;
        this.#control(controlType.switch, { client: connection.id });
      }
      for (const parse of connection.promisedParses.splice(0)) this.#write(wrapControl(controlType.prepare, parse));
      return;
    }
  }

  #beginTurn(connection: ClientConnection, kind: Turn['kind']): void {
    this.#turns++;
    this.#midMessageLeft = 0;
    this.#turn = {
      connection,
      kind,
      gate: new TurnGate(),
      ready: this.#ready,
      midMessage: false,
      sent: this.#sent,
      movedAt: this.#host.now(),
    };
  }

  /** Moves the client's messages into the in ring, as far as there is room and the gate lets them. */
  #send(turn: Turn): void {
    const { connection } = turn;
    if (connection.state !== 'serving') return;
    let moved = false;
    try {
      for (;;) {
        if (this.#midMessageLeft === 0 && !this.#beginMessage(turn)) break;
        const room = this.#wire.inbound.room - controlReserve;
        if (room <= 0) break;
        const part = connection.input.front(Math.min(this.#midMessageLeft, room));
        if (part.length === 0) break;
        this.#wire.inbound.write(part, 0, part.length);
        connection.input.skip(part.length);
        this.#midMessageLeft -= part.length;
        moved = true;
        turn.midMessage = this.#midMessageLeft > 0;
      }
    } finally {
      if (moved) {
        turn.movedAt = this.#host.now();
        wakeBackend(this.#words);
      }
    }
    connection.throttle();
  }

  /** True if the message at the front may begin. Small messages are sent whole, so that half of one blocks nobody. */
  #beginMessage(turn: Turn): boolean {
    const { connection } = turn;
    const header = connection.input.peekHeader();
    if (header === null) return false;
    if (connection.input.size < Math.min(header.bytes, clientBufferBytesMax)) return false;
    if (header.type === frontendType.terminate) {
      // What was sent before it is finished first.
      if (isSettled(turn)) connection.destroy();
      return false;
    }
    if (!turn.gate.admits(header.type, this.#queue.length > 0, isSettled(turn))) return false;
    turn.gate.passed(header.type);
    this.#midMessageLeft = header.bytes;
    this.#sent = (this.#sent + 1) >>> 0;
    turn.sent = this.#sent;
    return true;
  }

  #wantsTurn(connection: ClientConnection): boolean {
    const header = connection.input.peekHeader();
    return header !== null && connection.input.size >= Math.min(header.bytes, clientBufferBytesMax);
  }

  #join(connection: ClientConnection): void {
    if (this.#queue.has(connection)) return;
    this.#queue.join(connection);
    this.#waitingSince.set(connection, this.#host.now());
  }

  #leave(connection: ClientConnection): void {
    this.#queue.leave(connection);
    this.#waitingSince.delete(connection);
  }

  /** The client of this turn is gone: its statement is cancelled, its bytes are dropped, its session is closed. */
  #abandon(turn: Turn): void {
    Atomics.store(this.#words, word.goneAt, this.#wire.inbound.headPosition);
    turn.kind = 'close';
    const settled = isSettled(turn);
    this.#signal(signal.clientGone, !settled);
    this.#control(controlType.close, { client: turn.connection.id });
    if (!settled) this.#watchAnswer();
  }

  #signal(bit: number, running = true): void {
    Atomics.or(this.#words, word.signals, bit);
    wakeBackend(this.#words);
    if (!running) return;
    this.#host.interrupt();
    if (bit === signal.cancel) this.#watchAnswer();
  }

  #watchAnswer(): void {
    const at = this.#host.now() + this.#host.limits.cancelGraceMs;
    this.#cancelDeadline ??= { at, sent: this.#turn?.sent ?? this.#sent };
  }

  #control(type: number, body: object): void {
    this.#write(encodeControl(type, body));
  }

  #write(bytes: Uint8Array): void {
    this.#wire.inbound.write(bytes, 0, bytes.length);
    wakeBackend(this.#words);
  }

  /** A signal that came at a moment when the backend could not take it. */
  #repeatSignals(): void {
    const signals = Atomics.load(this.#words, word.signals) & (signal.cancel | signal.clientGone | signal.timer);
    if (signals !== 0 && Atomics.load(this.#words, word.state) === backendState.running) this.#host.interrupt();
  }

  /** Last resort: a statement that ignores its cancel. Waiting for a client is not ignoring it. */
  #watchCancel(now: number): void {
    const deadline = this.#cancelDeadline;
    if (deadline === null || now < deadline.at) return;
    if (this.#ready.consumed === deadline.sent || this.#turn === null) this.#cancelDeadline = null;
    else if (Atomics.load(this.#words, word.state) === backendState.running) {
      this.#cancelDeadline = null;
      this.#host.restart('a statement did not answer to its cancel');
    }
  }

  /** idle_in_transaction_session_timeout and idle_session_timeout. */
  #watchOwnTimeouts(turn: Turn, now: number): void {
    const { idleInTransactionMs, idleSessionMs } = turn.ready;
    const idleFor = now - turn.movedAt;
    const at = standing(turn);
    if (at === 'inTransaction' && idleInTransactionMs > 0 && idleFor >= idleInTransactionMs) {
      turn.connection.fail(idleInTransaction);
    } else if ((at === 'idle' || at === 'pinned') && idleSessionMs > 0 && idleFor >= idleSessionMs) {
      turn.connection.fail({ code: '57P05', message: 'terminating connection due to idle-session timeout' });
    }
  }

  #watchStall(turn: Turn, now: number): void {
    const { limits } = this.#host;
    let oldest = now;
    for (const since of this.#waitingSince.values()) oldest = Math.min(oldest, since);
    // The clock runs from when somebody waits.
    const waited = now - Math.max(oldest, turn.movedAt);
    switch (standing(turn)) {
      case 'inTransaction':
        if (waited >= limits.idleInTransactionMs) turn.connection.fail(idleInTransaction);
        return;
      case 'pinned':
        this.#refusePinned(now);
        return;
      case 'running':
        if (waited >= limits.stalledClientMs && this.#waitsForClient(turn)) turn.connection.fail(stalled);
        return;
      case 'idle':
        return;
    }
  }

  #waitsForClient(turn: Turn): boolean {
    const state = Atomics.load(this.#words, word.state);
    if (state === backendState.waitsForRoom) return true;
    if (turn.connection.unsentBytes > socketBufferBytesMax) return true;
    return state === backendState.waitsForInput && this.#wire.inbound.used === 0;
  }

  #refusePinned(now: number): void {
    for (const [connection, since] of [...this.#waitingSince]) {
      if (now - since < this.#host.limits.pinnedWaitMs) continue;
      if (connection.state === 'serving') this.#refuseWaiting(connection, pinnedByOther);
      else connection.fail(pinnedByOther);
    }
  }

  /**
   * A client in a transaction may wait for another client of the same program, which waits for the backend: pgbench, for one, prepares
   * statements on one connection in the middle of another's transaction, and goes on with neither until it has its answer. Preparing
   * a statement changes nothing but the session, so where the transaction rests, its answer is given at once and the work is done in
   * the client's next turn. Only a Parse with a name and its Sync: whoever asks for more has to wait.
   */
  #promiseParses(now: number): void {
    const turn = this.#turn;
    if (turn === null || standing(turn) !== 'inTransaction' || now - turn.movedAt < promiseAfterMs) return;
    for (const connection of [...this.#queue.all()]) {
      if (connection.state === 'serving') this.#promiseParse(connection);
    }
  }

  #promiseParse(connection: ClientConnection): void {
    const { input } = connection;
    const header = input.peekHeader();
    const whole = (header?.bytes ?? 0) + syncBytes;
    if (header?.type !== frontendType.parse || whole > controlReserve / 2 || input.size < whole) return;
    const bytes = input.peekBytes(whole);
    const isNamed = bytes[5] !== 0;
    if (!isNamed || bytes[header.bytes] !== frontendType.sync || connection.promisedParses.length >= promisedParsesMax)
      return;
    connection.promisedParses.push(Buffer.from(bytes.subarray(0, header.bytes)));
    takeBytes(input, whole);
    connection.send(Buffer.concat([parseComplete, readyForQuery('I')]));
    if (!this.#wantsTurn(connection)) this.#leave(connection);
  }

  /** Answers a statement that waits for its turn with an error, without the backend. */
  #refuseWaiting(connection: ClientConnection, fields: Omit<ErrorFields, 'severity'>): void {
    this.#leave(connection);
    const { input } = connection;
    for (;;) {
      const header = input.peekHeader();
      // A message larger than what is kept here cannot be skipped: its client is let go.
      if (header === null || input.size < header.bytes) {
        connection.fail(fields);
        return;
      }
      const isEnd = header.type === frontendType.query || header.type === frontendType.sync;
      if (header.type === frontendType.terminate) {
        connection.destroy();
        return;
      }
      takeBytes(input, header.bytes);
      if (isEnd || header.type === frontendType.functionCall) break;
    }
    connection.send(Buffer.concat([errorResponse({ severity: 'ERROR', ...fields }), readyForQuery('I')]));
    connection.throttle();
    if (this.#wantsTurn(connection)) this.#join(connection);
  }
}

function takeBytes(input: FrontendBuffer, count: number): void {
  for (let left = count; left > 0; ) {
    const part = input.front(left).length;
    input.skip(part);
    left -= part;
  }
}

const cancelled = { code: '57014', message: 'canceling statement due to user request' };
const idleInTransaction = {
  code: '25P03',
  message: 'terminating connection due to idle-in-transaction timeout',
  hint: 'Other clients wait for the backend, which a transaction has to itself.',
};
const stalled = {
  code: '57P01',
  message: 'terminating connection: the client stopped in the middle of a statement while others wait',
};
const pinnedByOther = {
  code: '55P03',
  message: 'another session holds session-level advisory locks, and with them the backend',
  hint: 'Release them with pg_advisory_unlock(), or use pg_advisory_xact_lock().',
};

assert(promisedParsesMax * (controlReserve / 2 + 5) <= inRingBytes);
