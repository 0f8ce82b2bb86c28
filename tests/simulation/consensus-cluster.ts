/**
 * A cluster of real safekeepers and proposers on a simulated network and simulated disks, and the checkers that watch it.
 *
 * Checked all the time: one winner a term; no two histories of acknowledged WAL; nobody finds damage on a disk that only crashed.
 * Checked at the end, by `verify`: every acknowledged record is in every safekeeper's committed WAL, and these agree byte for byte.
 */
import { crc32c } from '../../engine/crc32c.ts';
import { isPageliteError } from '../../engine/errors.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { RemoteWalService } from '../../engine/remote/remote-wal-service.ts';
import { serveWalStream } from '../../engine/remote/wal-stream-handler.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { Log, WalService } from '../../engine/services.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { type SyntheticRecord, SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { SimDisk, type SimStorage } from './faulty-disk.ts';
import { Network, type NetworkFaults } from './network.ts';
import type { World } from './world.ts';

/** Near a segment's end, so that segments change during a run. */
export const simStartLsn = (3 * walSegmentSize - 30_000) as Lsn;
export const simTimeline: TenantTimelineId = {
  tenantId: tenantId('11'.repeat(16)),
  timelineId: timelineId('22'.repeat(16)),
};

class Node {
  readonly id: NodeId;
  readonly name: string;
  readonly disk: SimDisk;
  storage: SimStorage | null = null;
  safekeeper: Safekeeper | null = null;

  constructor(id: number, world: World) {
    this.id = id as NodeId;
    this.name = `sk${id}`;
    this.disk = new SimDisk(world);
  }
}

export class ConsensusCluster {
  readonly world: World;
  readonly network: Network;
  readonly nodes: Node[];
  readonly ledger = new Ledger();
  readonly violations: string[] = [];
  readonly #winners = new Map<number, { readonly name: string; readonly startLsn: Lsn }>();
  readonly #log: Log;
  elections = 0;
  fences = 0;

  constructor(world: World, acceptorCount: number, faults: NetworkFaults) {
    this.world = world;
    this.network = new Network(world, faults);
    this.nodes = Array.from({ length: acceptorCount }, (_, i) => new Node(i + 1, world));
    const trace = process.env.SIM_TRACE ? console.log : () => {};
    const say = (level: string) => (message: string, data?: object) =>
      trace(`${world.now().toFixed(2)} ${level} ${message} ${JSON.stringify(data ?? {})}`);
    this.#log = { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') };
  }

  startSafekeeper(node: Node): void {
    if (node.safekeeper) return;
    node.storage = node.disk.mount();
    const log: Log = {
      ...this.#log,
      // A safekeeper has errors only when its medium fails or is damaged: never here.
      error: (message, data) => this.#violate(`${node.name}: ${message} ${JSON.stringify(data)}`),
    };
    const safekeeper = new Safekeeper({ nodeId: node.id, storage: node.storage, log });
    node.safekeeper = safekeeper;
    this.network.listen(node.name, (endpoint, channel) => {
      if (endpoint === 'proposer') safekeeper.acceptProposer(channel);
      else serveWalStream(channel, safekeeper);
    });
  }

  /** The process is gone at once; on a power failure what was not synchronised may be, too. */
  killSafekeeper(node: Node, powerFailure: boolean): void {
    if (!node.safekeeper || !node.storage) return;
    this.#log.info(`kill ${node.name}`, { powerFailure });
    node.storage.alive = false;
    node.safekeeper = null;
    this.network.kill(node.name);
    node.disk.crash(powerFailure);
  }

  servicesFor(client: string): WalService[] {
    return this.nodes.map(
      (node) =>
        new RemoteWalService({
          nodeId: node.id,
          connect: (endpoint) => this.network.connect(client, node.name, endpoint),
        }),
    );
  }

  async elect(name: string, signal: AbortSignal): Promise<ProposerDriver | null> {
    try {
      const driver = await ProposerDriver.elect({
        id: simTimeline,
        services: this.servicesFor(name),
        startLsnIfEmpty: simStartLsn,
        systemIdentifier: syntheticSystemIdentifier,
        clock: this.world,
        random: this.world,
        log: this.#log,
        signal,
      });
      this.#won(name, driver);
      return driver;
    } catch (error) {
      if (isPageliteError(error, 'fenced') || isPageliteError(error, 'cancelled')) return null;
      this.#violate(`${name} could not be elected: ${(error as Error).message}`);
      return null;
    }
  }

  /** Every safekeeper's committed WAL up to `endLsn`, against the ledger and each other. */
  async verify(endLsn: Lsn): Promise<void> {
    let first: Uint8Array | null = null;
    for (const [i, service] of this.servicesFor('verifier').entries()) {
      const wal = await readAll(service, endLsn);
      if (first && !same(first, wal)) this.#violate(`sk${i + 1} has other WAL than sk1`);
      first ??= wal;
    }
    for (const { startLsn, bytes } of this.ledger.records) {
      const at = startLsn - simStartLsn;
      if (!first || !same(first.subarray(at, at + bytes.length), bytes)) {
        this.#violate(`the acknowledged record at ${formatLsn(startLsn)} is lost`);
      }
    }
  }

  acknowledge(who: string, term: number, record: SyntheticRecord): void {
    const conflict = this.ledger.add({ ...record, term });
    if (conflict) this.#violate(`${who}: ${conflict}`);
    for (const [winnerTerm, { name, startLsn }] of this.#winners) {
      if (winnerTerm > term && startLsn < record.endLsn) this.#startsTooEarly(name, startLsn, record.endLsn);
    }
  }

  /** Everything that a run leads to, as one number. */
  fingerprint(): number {
    let crc = crc32c(new TextEncoder().encode(`${this.world.now()} ${this.world.next()} ${this.violations.join()}`));
    for (const { disk } of this.nodes) {
      for (const { files } of disk.timelines.values()) {
        for (const [name, { durable }] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
          crc = crc32c(durable, 0, durable.length, crc32c(new TextEncoder().encode(name), 0, name.length, crc));
        }
      }
    }
    return crc;
  }

  #won(name: string, driver: ProposerDriver): void {
    this.elections++;
    const { term, startLsn } = driver;
    const other = this.#winners.get(term);
    if (other) this.#violate(`term ${term} was won by ${other.name} and by ${name}`);
    this.#winners.set(term, { name, startLsn });
    for (const record of this.ledger.records) {
      if (record.term < term && record.endLsn > startLsn) this.#startsTooEarly(name, startLsn, record.endLsn);
    }
    driver.onFenced(() => {
      this.fences++;
    });
  }

  #startsTooEarly(name: string, startLsn: Lsn, acknowledgedLsn: Lsn): void {
    this.#violate(
      `${name} starts at ${formatLsn(startLsn)}, an older term has acknowledged ${formatLsn(acknowledgedLsn)}`,
    );
  }

  #violate(what: string): void {
    this.#log.error('VIOLATION', { what });
    this.violations.push(what);
  }
}

/** A compute: wins a term, writes records, and notes those whose commit was acknowledged. */
export class SimCompute {
  readonly name: string;
  readonly #cluster: ConsensusCluster;
  readonly #stop = new AbortController();
  #driver: ProposerDriver | null = null;
  committed = 0;
  finished = false;

  constructor(cluster: ConsensusCluster, name: string) {
    this.#cluster = cluster;
    this.name = name;
  }

  get endLsn(): Lsn {
    return this.#driver!.commitLsn;
  }

  /** Until it is killed, fenced, or has written `recordCount` records. */
  async run(recordCount: number): Promise<void> {
    const { world } = this.#cluster;
    this.#driver = await this.#cluster.elect(this.name, this.#stop.signal);
    if (this.#driver === null || this.#stop.signal.aborted) {
      this.finished = true;
      return;
    }
    const wal = SyntheticWal.afterBoot(this.#driver.startLsn);
    try {
      for (let i = 0; i < recordCount; ) {
        const batch = 1 + world.below(3);
        const records = Array.from({ length: batch }, () => this.#write(wal, i++));
        await this.#driver.waitCommit(wal.endLsn, this.#stop.signal);
        this.committed += batch;
        for (const record of records) this.#cluster.acknowledge(this.name, this.#driver.term, record);
        await world.sleep(20 * world.next(), this.#stop.signal);
      }
    } catch (error) {
      if (!isPageliteError(error)) throw error;
    }
    this.finished = true;
  }

  /** The process is gone at once. */
  kill(): void {
    this.#stop.abort();
    this.#cluster.network.kill(this.name);
    this.#driver?.close();
  }

  #write(wal: SyntheticWal, i: number): SyntheticRecord {
    const { world } = this.#cluster;
    const size = world.chance(0.1) ? world.below(25_000) : world.below(400);
    const payload = new Uint8Array(16 + size).fill(world.below(256));
    new TextEncoder().encodeInto(`${this.name} ${i}`, payload);
    const record = wal.next(payload);
    const cut = world.below(record.bytes.length);
    const driver = this.#driver!;
    if (cut > 0) driver.append(record.startLsn, record.bytes.subarray(0, cut));
    driver.append((record.startLsn + cut) as Lsn, record.bytes.subarray(cut));
    return record;
  }
}

interface Acknowledged extends SyntheticRecord {
  readonly term: number;
}

/** What was acknowledged to clients: records that can never be lost or replaced. In no order: news of a commit may be late. */
class Ledger {
  readonly records: Acknowledged[] = [];

  /** Why the record contradicts another, or null. */
  add(record: Acknowledged): string | null {
    const other = this.records.find(({ startLsn, endLsn }) => startLsn < record.endLsn && endLsn > record.startLsn);
    this.records.push(record);
    if (!other) return null;
    return `two histories: ${formatLsn(record.startLsn)} of term ${record.term}, ${formatLsn(other.startLsn)} of term ${other.term}`;
  }
}

async function readAll(service: WalService, endLsn: Lsn): Promise<Uint8Array> {
  const out = new Uint8Array(endLsn - simStartLsn);
  const reading = new AbortController();
  let at: number = simStartLsn;
  for await (const { startLsn, bytes } of service.readWal(simTimeline, simStartLsn, reading.signal)) {
    out.set(bytes.subarray(0, endLsn - startLsn), startLsn - simStartLsn);
    at = startLsn + bytes.length;
    if (at >= endLsn) break;
  }
  return out;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && crc32c(a) === crc32c(b);
}
