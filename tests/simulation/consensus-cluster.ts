/**
 * A cluster of real safekeepers, proposers and WAL readers on a simulated network and simulated disks, with checkers.ts watching.
 */
import { crc32c } from '../../engine/crc32c.ts';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { configurationOf, type SafekeeperConfiguration } from '../../engine/model/configuration.ts';
import { type NodeId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { RemoteWalService } from '../../engine/remote/remote-wal-service.ts';
import { serveWalStream } from '../../engine/remote/wal-stream-handler.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import type { BackupTarget } from '../../engine/safekeeper/wal-backup.ts';
import type { Log, SafekeeperPeer, WalService } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { Checkers } from './checkers.ts';
import { SimDisk, type SimStorage } from './faulty-disk.ts';
import { Network, type NetworkFaults } from './network.ts';
import { Replacement } from './replacement.ts';
import type { World } from './world.ts';

/** Near a segment's end, so that segments change during a run. */
export const simStartLsn = (3 * walSegmentSize - 30_000) as Lsn;
export const simTimeline: TenantTimelineId = {
  tenantId: tenantId('11'.repeat(16)),
  timelineId: timelineId('22'.repeat(16)),
};

const simCluster = '33'.repeat(8);

export class SimNode {
  readonly id: NodeId;
  readonly name: string;
  readonly disk: SimDisk;
  storage: SimStorage | null = null;
  safekeeper: Safekeeper | null = null;
  upkeep: SafekeeperUpkeep | null = null;
  /** As it was told at its start. */
  peers: readonly SimNode[] = [];
  /** It was lost. */
  isGone = false;
  /** Of its disk, some time ago. */
  snapshot: ReturnType<SimDisk['snapshot']> | null = null;

  /** Its disk was put back, and it has not caught up with all others since. */
  get isForgetful(): boolean {
    if (this.disk.isOld && this.upkeep?.isReadmitted(simTimeline)) this.disk.isOld = false;
    return this.disk.isOld;
  }

  constructor(id: number, world: World) {
    this.id = id as NodeId;
    this.name = `sk${id}`;
    this.disk = new SimDisk(world);
  }
}

export interface ClusterOptions {
  readonly acceptorCount: number;
  readonly faults: NetworkFaults;
  /** Safekeepers catch up from each other, send WAL to an object store and remove it. */
  readonly upkeep: boolean;
  readonly trace: boolean;
}

export class ConsensusCluster {
  readonly world: World;
  readonly network: Network;
  /** All that there ever were. */
  readonly nodes: SimNode[];
  /** What is known to whoever starts now. */
  configuration: SafekeeperConfiguration;
  /** In the order in which they were begun. */
  readonly replacements: Replacement[] = [];
  readonly checkers: Checkers;
  readonly log: Log;
  /** Where WAL goes. */
  readonly store = new MemoryObjectStore();
  readonly #withUpkeep: boolean;
  #switchesLeft: number;
  /** Until then there is no object store. */
  readonly #storeFromMs: number;
  staleRestores = 0;
  /** Starts of a safekeeper with an old disk of which it heard from its peers. */
  noticedOldDisks = 0;
  recoveries = 0;

  constructor(world: World, { acceptorCount, faults, upkeep, trace }: ClusterOptions) {
    this.world = world;
    this.#withUpkeep = upkeep;
    this.#storeFromMs = upkeep && world.chance(0.5) ? world.now() + world.below(12_000) : 0;
    this.#switchesLeft = upkeep && world.chance(0.25) ? 1 + world.below(3) : 0;
    this.network = new Network(world, faults);
    this.nodes = Array.from({ length: acceptorCount }, (_, i) => new SimNode(i + 1, world));
    this.configuration = configurationOf(
      1,
      this.nodes.map(({ id }) => id),
    );
    for (const node of this.nodes) node.peers = this.nodes.filter((other) => other !== node);
    const say = (level: string) => (message: string, data?: object) => {
      if (trace) process.stderr.write(`${world.now().toFixed(2)} ${level} ${message} ${JSON.stringify(data ?? {})}\n`);
    };
    this.log = { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') };
    this.checkers = new Checkers(simStartLsn, (what) => this.log.error('VIOLATION', { what }));
    this.network.tap = (from, _, endpoint, message) => {
      if (endpoint !== 'proposer') return;
      if (from.startsWith('sk')) this.checkers.sentBySafekeeper(from, message);
      else this.checkers.sentByProposer(from, message);
    };
  }

  /** Of the configuration. */
  get members(): readonly SimNode[] {
    return this.membersOf(this.configuration);
  }

  membersOf({ members }: SafekeeperConfiguration): readonly SimNode[] {
    return members.map((id) => this.nodes[id - 1]!);
  }

  /** So many safekeepers more may lose what they acknowledged. */
  get spareCount(): number {
    const count = this.members.length;
    const forgetful = this.members.filter((node) => node.isForgetful || node.isGone).length;
    return count - quorumOf(count) - forgetful;
  }

  /** A safekeeper with an empty disk. */
  addNode(peers: readonly SimNode[]): SimNode {
    const node = new SimNode(this.nodes.length + 1, this.world);
    node.peers = peers;
    this.nodes.push(node);
    return node;
  }

  /** Somebody has to replace a member, for good. */
  lose(node: SimNode, returnsMs: number | null): Replacement | null {
    const isAlone = this.replacements.every(({ done }) => done);
    if (!isAlone || !this.#withUpkeep || (this.spareCount < 1 && !node.isForgetful)) return null;
    this.log.info(`${node.name} is lost`);
    const replacement = new Replacement(this, node, returnsMs);
    this.replacements.push(replacement);
    void replacement.run();
    return replacement;
  }

  startSafekeeper(node: SimNode): void {
    if (node.safekeeper || node.isGone) return;
    node.storage = node.disk.mount();
    const log: Log = {
      ...this.log,
      warn: (message, data) => {
        this.log.warn(message, { node: node.name, ...data });
        if (message.includes('without having caught up')) this.#goesOnAlone(node);
      },
      error: (message, data) => this.#failed(node, message, data),
    };
    const safekeeper = new Safekeeper({ nodeId: node.id, storage: node.storage, log, backup: this.#openBackup });
    node.safekeeper = safekeeper;
    this.network.listen(node.name, (endpoint, channel) => {
      if (endpoint === 'proposer') safekeeper.acceptProposer(channel);
      else serveWalStream(channel, safekeeper);
    });
    if (!this.#withUpkeep) return;
    node.upkeep = new SafekeeperUpkeep({
      safekeeper,
      peers: this.servicesFor(node.name, node.peers),
      backup: this.#openBackup,
      clock: this.world,
      log,
    });
    node.upkeep.start();
  }

  /** With a disk that was put back that is one fault more than is survived: it is stopped before it says anything, and tries again. */
  #goesOnAlone(node: SimNode): void {
    if (!node.isForgetful) return;
    this.killSafekeeper(node, false);
    this.world.after(500, () => this.startSafekeeper(node));
  }

  readonly #openBackup = async (): Promise<BackupTarget> => {
    if (this.world.now() < this.#storeFromMs) throw new PageliteError('unavailable', 'the object store is away');
    return { store: this.store, cluster: simCluster };
  };

  /** Whether the next record is to end its segment: a few times in a run, so that whole segments are sent and given up. */
  mustSwitch(): boolean {
    if (this.#switchesLeft === 0 || !this.world.chance(0.05)) return false;
    this.#switchesLeft--;
    return true;
  }

  /** The process is gone at once; on a power failure what was not synchronised may be, too. */
  killSafekeeper(node: SimNode, powerFailure: boolean): void {
    if (!node.safekeeper || !node.storage) return;
    this.log.info(`kill ${node.name}`, { powerFailure });
    node.storage.alive = false;
    node.safekeeper = null;
    this.recoveries += node.upkeep?.counters.recoveries ?? 0;
    // Looked at as long as its process can tell.
    void node.isForgetful;
    void node.upkeep?.close();
    node.upkeep = null;
    this.network.kill(node.name);
    node.disk.crash(powerFailure);
    this.checkers.restarted(node.name);
  }

  /** Its disk is as it was some time ago, as after the wrong backup was put back, or a new one. Only peers can notice. */
  restoreOldDisk(node: SimNode): void {
    const isMinority = node.isForgetful || this.spareCount > 0;
    if (node.snapshot === null || !isMinority || !this.#withUpkeep || !this.members.includes(node)) return;
    this.killSafekeeper(node, false);
    const isEmpty = this.world.chance(0.2);
    this.log.info(`old disk of ${node.name}`, { isEmpty });
    this.staleRestores++;
    node.disk.restore(isEmpty ? null : node.snapshot);
    node.snapshot = null;
    this.checkers.putBack(node.name);
  }

  /** Faults of the medium end; who was stopped by them starts again. */
  repair(): void {
    for (const node of this.nodes) {
      if (node.disk.failure !== 'none') this.killSafekeeper(node, false);
      node.disk.failure = 'none';
      node.disk.slowness = 1;
      this.startSafekeeper(node);
    }
  }

  servicesFor(client: string, nodes = this.members): SafekeeperPeer[] {
    return nodes.map(
      (node) =>
        new RemoteWalService({
          nodeId: node.id,
          connect: (endpoint) => this.network.connect(client, node.name, endpoint),
        }),
    );
  }

  /** Every member gives all committed WAL up to `endLsn`, what it has given up from the object store. */
  async verify(endLsn: Lsn): Promise<void> {
    for (const [i, service] of this.servicesFor('verifier').entries())
      this.checkers.complete(this.members[i]!.name, await this.#readAll(service, endLsn));
  }

  /** Again and again: what is not on its disk any more may just be on the way to the object store, and what was put back without it from the others. */
  async #readAll(service: WalService, endLsn: Lsn): Promise<Uint8Array> {
    for (;;) {
      const out = new Uint8Array(endLsn - simStartLsn);
      try {
        for await (const chunk of service.readWal(simTimeline, simStartLsn, new AbortController().signal)) {
          out.set(chunk.bytes.subarray(0, endLsn - chunk.startLsn), chunk.startLsn - simStartLsn);
          if (chunk.startLsn + chunk.bytes.length >= endLsn) return out;
        }
      } catch (error) {
        this.log.warn('not all WAL is there yet', { node: service.nodeId, error: (error as Error).message });
        if (!(['unavailable', 'closed', 'notFound'] as const).some((kind) => isPageliteError(error, kind))) throw error;
      }
      await this.world.sleep(1000);
    }
  }

  /** Everything that a run leads to, as one number. */
  fingerprint(): number {
    const { violations, acknowledged } = this.checkers;
    const text = [this.world.now(), this.world.next(), acknowledged.length, ...violations].join(' ');
    let crc = crc32c(new TextEncoder().encode(text));
    for (const { disk } of this.nodes) crc = disk.fingerprint(crc);
    return crc;
  }

  /** A safekeeper has errors only when its medium fails, and is never damaged by a crash. */
  #failed(node: SimNode, message: string, data: object | undefined): void {
    this.log.error(message, data);
    if (message.includes('older than what it has shown')) {
      if (node.isForgetful) this.noticedOldDisks++;
      else this.checkers.violate(`${node.name}: takes its disk for an old one ${JSON.stringify(data)}`);
      return;
    }
    if (node.disk.failures === 0) this.checkers.violate(`${node.name}: ${message} ${JSON.stringify(data)}`);
  }
}

/** What a pageserver does: follows committed WAL, from whichever safekeeper gives it. */
export async function followWal(cluster: ConsensusCluster, name: string, signal: AbortSignal): Promise<void> {
  const { world, nodes, checkers } = cluster;
  let at = simStartLsn;
  while (!signal.aborted) {
    const node = world.pick(nodes);
    const [service] = cluster.servicesFor(name, [node]);
    const reading = new AbortController();
    const stop = () => reading.abort();
    signal.addEventListener('abort', stop, { once: true });
    world.after(2000 * world.next(), stop);
    try {
      for await (const { startLsn, bytes } of service!.readWal(simTimeline, at, reading.signal)) {
        checkers.read(node.name, startLsn, bytes);
        at = lastBoundary(cluster, at, startLsn, bytes);
      }
      // What was read is ingested and stored: a pageserver needs it no more.
      if (world.chance(0.3)) await service!.reportConsistent(simTimeline, at);
    } catch (error) {
      if (!isPageliteError(error)) throw error;
    }
    signal.removeEventListener('abort', stop);
    await world.sleep(50 * world.next());
  }
}

/** A reader resumes where a record ends: after all that it knows to be acknowledged, or where it was. */
function lastBoundary({ checkers }: ConsensusCluster, before: Lsn, startLsn: Lsn, bytes: Uint8Array): Lsn {
  const end = startLsn + bytes.length;
  let boundary: number = before;
  for (const { endLsn } of checkers.acknowledged) if (endLsn > boundary && endLsn <= end) boundary = endLsn;
  return boundary as Lsn;
}
