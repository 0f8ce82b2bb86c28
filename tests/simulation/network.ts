/**
 * A network of named nodes with the faults that TCP connections have: delay, connections that break (what was under way is lost, and the
 * two ends hear of it at different times), partitions one way or both (nothing passes; it is delivered later unless somebody gives up),
 * nodes that die. And with those that only datagrams have, which a protocol for connections must survive, too: messages that are lost,
 * come twice, or overtake others.
 */
import { PageliteError } from '../../engine/errors.ts';
import type { Channel } from '../../engine/services.ts';
import type { World } from './world.ts';

export interface NetworkFaults {
  readonly delayMaxMs: number;
  /** Chance of a message to break its connection instead of arriving. */
  readonly breakChance: number;
  readonly dropChance: number;
  readonly duplicateChance: number;
  /** Chance of a message to be as late as it likes, and of those behind it not to wait. */
  readonly overtakeChance: number;
}

type Fate = 'arrives' | 'breaks' | 'lost' | 'twice' | 'late';

/** Sees every message as it is sent. */
export type MessageTap = (from: string, to: string, endpoint: string, message: Uint8Array) => void;

export class Network {
  readonly #world: World;
  readonly #faults: NetworkFaults;
  readonly #fates: readonly { readonly fate: Fate; readonly below: number }[];
  readonly #connections = new Set<Connection>();
  readonly #partitioned = new Set<string>();
  /** Listeners of the nodes that are up. */
  readonly #nodes = new Map<string, (endpoint: string, channel: Channel) => void>();
  calm = false;
  tap: MessageTap = () => {};

  constructor(world: World, faults: NetworkFaults) {
    this.#world = world;
    this.#faults = faults;
    const { breakChance, dropChance, duplicateChance, overtakeChance } = faults;
    let below = 0;
    this.#fates = (
      [
        ['breaks', breakChance],
        ['lost', dropChance],
        ['twice', duplicateChance],
        ['late', overtakeChance],
      ] as const
    ).map(([fate, chance]) => {
      below += chance;
      return { fate, below };
    });
  }

  listen(node: string, accept: (endpoint: string, channel: Channel) => void): void {
    this.#nodes.set(node, accept);
  }

  /** The node and all of its connections are gone at once; it does nothing any more. */
  kill(node: string): void {
    this.#nodes.delete(node);
    for (const connection of [...this.#connections]) {
      if (connection.ends.some((end) => end.node === node)) this.#break(connection, node);
    }
  }

  /** From now on nothing passes from one to the other; what comes back still does. */
  cutOneWay(from: string, to: string): void {
    this.#partitioned.add(`${from} ${to}`);
  }

  cut(a: string, b: string): void {
    this.cutOneWay(a, b);
    this.cutOneWay(b, a);
  }

  mendOneWay(from: string, to: string): void {
    this.#partitioned.delete(`${from} ${to}`);
    this.#flush();
  }

  heal(): void {
    this.#partitioned.clear();
    this.#flush();
  }

  #flush(): void {
    for (const connection of this.#connections) for (const end of connection.ends) end.flush();
  }

  connect(from: string, to: string, endpoint: string): Channel {
    const connection = new Connection(this, from, to, endpoint);
    this.#connections.add(connection);
    const [near, far] = connection.ends;
    this.#world.after(this.delayMs(), () => {
      const accept = this.#nodes.get(to);
      if (!connection.open) return;
      if (accept === undefined || this.isCut(from, to)) this.#break(connection, null);
      else accept(endpoint, far);
    });
    return near;
  }

  get world(): World {
    return this.#world;
  }

  delayMs(): number {
    const { next } = { next: () => this.#world.next() };
    // Mostly short, sometimes long.
    return (next() < 0.05 ? this.#faults.delayMaxMs : 2) * next();
  }

  isCut(from: string, to: string): boolean {
    return this.#partitioned.has(`${from} ${to}`);
  }

  /** What becomes of a message that is sent now. */
  fate(): Fate {
    if (this.calm) return 'arrives';
    const dice = this.#world.next();
    return this.#fates.find(({ below }) => dice < below)?.fate ?? 'arrives';
  }

  /** Ends a connection; `silent` is a node that died and hears nothing. */
  #break(connection: Connection, silent: string | null): void {
    connection.open = false;
    this.#connections.delete(connection);
    for (const end of connection.ends) end.breakOff(end.node === silent);
  }

  breakConnection(connection: Connection): void {
    if (connection.open) this.#break(connection, null);
  }

  forget(connection: Connection): void {
    this.#connections.delete(connection);
  }
}

class Connection {
  open = true;
  readonly endpoint: string;
  readonly ends: readonly [End, End];

  constructor(network: Network, from: string, to: string, endpoint: string) {
    this.endpoint = endpoint;
    this.ends = [new End(network, this, from, to, 0), new End(network, this, to, from, 1)];
  }
}

type Event = { readonly message: Uint8Array } | { readonly closed: Error | undefined };

/** One end. What the peer sends waits in `#inbox` until its time has come and no partition holds it. */
class End implements Channel {
  readonly node: string;
  readonly #network: Network;
  readonly #connection: Connection;
  readonly #peerNode: string;
  readonly #side: 0 | 1;
  #inbox: { event: Event; atMs: number }[] = [];
  #lastAtMs = 0;
  #closed = false;
  #messageHandler: ((message: Uint8Array) => void) | undefined;
  #closeHandler: ((error?: Error) => void) | undefined;

  constructor(network: Network, connection: Connection, node: string, peerNode: string, side: 0 | 1) {
    this.#network = network;
    this.#connection = connection;
    this.node = node;
    this.#peerNode = peerNode;
    this.#side = side;
  }

  get bufferedBytes(): number {
    return 0;
  }

  send(message: Uint8Array): void {
    if (this.#closed) throw new PageliteError('closed', 'the channel is closed');
    if (!this.#connection.open) return;
    const bytes = message.slice();
    this.#network.tap(this.node, this.#peerNode, this.#connection.endpoint, bytes);
    const fate = this.#network.fate();
    if (fate === 'breaks') this.#network.breakConnection(this.#connection);
    else if (fate !== 'lost') this.#peer.#enqueue({ message: bytes }, fate === 'late');
    if (fate === 'twice') this.#peer.#enqueue({ message: bytes.slice() });
  }

  onMessage(handler: (message: Uint8Array) => void): void {
    this.#messageHandler = handler;
    this.#network.world.after(0, () => this.flush());
  }

  onClose(handler: (error?: Error) => void): void {
    this.#closeHandler = handler;
    this.#network.world.after(0, () => this.flush());
  }

  close(error?: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#inbox = [];
    const { world } = this.#network;
    world.after(0, () => this.#reportClose(error));
    if (this.#connection.open) this.#peer.#enqueue({ closed: error });
    this.#network.forget(this.#connection);
  }

  /** The connection broke: what has not arrived is lost. A node that died hears nothing. */
  breakOff(silent: boolean): void {
    this.#inbox = [];
    if (silent) {
      this.#closed = true;
      this.#messageHandler = undefined;
      this.#closeHandler = undefined;
    } else if (!this.#closed) {
      this.#enqueue({ closed: new PageliteError('unavailable', 'connection reset') });
    }
  }

  flush(): void {
    while (this.#inbox.length > 0 && !this.#network.isCut(this.#peerNode, this.node)) {
      const { event, atMs } = this.#inbox[0]!;
      if (atMs > this.#network.world.now()) return;
      if ('message' in event ? !this.#messageHandler : !this.#closeHandler) return;
      this.#inbox.shift();
      if ('message' in event) this.#messageHandler?.(event.message);
      else {
        this.#closed = true;
        this.#reportClose(event.closed);
      }
    }
  }

  get #peer(): End {
    return this.#connection.ends[1 - this.#side]!;
  }

  /** In the order sent, but for what is late. */
  #enqueue(event: Event, isLate = false): void {
    if (this.#closed) return;
    const { world } = this.#network;
    const delayed = world.now() + this.#network.delayMs();
    const atMs = isLate ? delayed + 20 * world.next() : Math.max(this.#lastAtMs, delayed);
    if (!isLate) this.#lastAtMs = atMs;
    let at = this.#inbox.length;
    while (at > 0 && this.#inbox[at - 1]!.atMs > atMs) at--;
    this.#inbox.splice(at, 0, { event, atMs });
    world.after(atMs - world.now(), () => this.flush());
  }

  #reportClose(error: Error | undefined): void {
    const handler = this.#closeHandler;
    this.#closeHandler = undefined;
    handler?.(error);
  }
}
