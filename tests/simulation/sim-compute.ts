/** A compute of the simulation: a real proposer that wins a term, writes records, and notes those whose commit was acknowledged. */
import { isPageliteError } from '../../engine/errors.ts';
import type { SafekeeperConfiguration } from '../../engine/model/configuration.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { type SyntheticRecord, SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { type ConsensusCluster, simStartLsn, simTimeline } from './consensus-cluster.ts';

export class SimCompute {
  readonly name: string;
  readonly #cluster: ConsensusCluster;
  readonly #configuration: SafekeeperConfiguration;
  readonly #stop = new AbortController();
  #driver: ProposerDriver | null = null;
  committed = 0;
  isFenced = false;
  isElected = false;
  finished = false;
  #finishedHandler = () => {};
  #electedHandler = () => {};
  #committedHandler = () => {};
  #writesAhead = false;

  /** `configuration`: what it was told, which may be old. */
  constructor(cluster: ConsensusCluster, name: string, configuration = cluster.configuration) {
    this.#cluster = cluster;
    this.name = name;
    this.#configuration = configuration;
  }

  get endLsn(): Lsn {
    return this.#driver!.commitLsn;
  }

  /** Until it is killed, fenced, or has written `recordCount` records. */
  async run(recordCount: number): Promise<void> {
    try {
      await this.#elect();
      if (this.#driver !== null && !this.#stop.signal.aborted) await this.#writeAll(this.#driver, recordCount);
    } catch (error) {
      // `unavailable`: the disks are full. `invalid`: so many have an old disk, or heard messages out of order, that there can be no quorum.
      const kinds = ['fenced', 'cancelled', 'closed', 'unavailable', 'invalid'] as const;
      if (!kinds.some((kind) => isPageliteError(error, kind))) {
        this.#cluster.checkers.violate(`${this.name}: ${(error as Error).stack}`);
      }
    }
    this.finished = true;
    this.#finishedHandler();
  }

  onFinished(handler: () => void): void {
    this.#finishedHandler = handler;
  }

  onElected(handler: () => void): void {
    this.#electedHandler = handler;
  }

  /** Called when its next commit was acknowledged. */
  onCommitted(handler: () => void): void {
    this.#committedHandler = () => {
      this.#committedHandler = () => {};
      handler();
    };
  }

  /** Its next transaction is a long one: WAL that is sent as it is written, long before it is waited for. */
  writeAhead(): void {
    this.#writesAhead = true;
  }

  /** The process is gone at once. */
  kill(): void {
    this.#stop.abort();
    this.#cluster.network.kill(this.name);
    this.#driver?.close();
  }

  async #elect(): Promise<void> {
    const { world, log, checkers } = this.#cluster;
    const driver = await ProposerDriver.elect({
      id: simTimeline,
      services: this.#cluster.servicesFor(this.name, this.#cluster.membersOf(this.#configuration)),
      startLsnIfEmpty: simStartLsn,
      systemIdentifier: syntheticSystemIdentifier,
      configuration: this.#configuration,
      clock: world,
      random: world,
      log,
      signal: this.#stop.signal,
    });
    this.isElected = true;
    this.#electedHandler();
    checkers.won(this.name, driver.term, driver.startLsn);
    driver.onFenced(() => {
      this.isFenced = true;
    });
    this.#driver = driver;
  }

  async #writeAll(driver: ProposerDriver, recordCount: number): Promise<void> {
    const { world, checkers } = this.#cluster;
    const wal = SyntheticWal.afterBoot(driver.startLsn);
    for (let i = 0; i < recordCount; ) {
      const batch = this.#writesAhead ? 20 + world.below(40) : 1 + world.below(3);
      this.#writesAhead = false;
      const records = Array.from({ length: batch }, () => this.#write(driver, wal, i++));
      await driver.waitCommit(wal.endLsn, this.#stop.signal);
      this.committed += batch;
      checkers.proposerCommitted(this.name, driver.commitLsn);
      for (const record of records) checkers.acknowledge(this.name, driver.term, record);
      this.#committedHandler();
      await world.sleep(20 * world.next(), this.#stop.signal);
    }
  }

  #write(driver: ProposerDriver, wal: SyntheticWal, i: number): SyntheticRecord {
    const { world } = this.#cluster;
    const size = world.chance(0.1) ? world.below(25_000) : world.below(400);
    const payload = new Uint8Array(16 + size).fill(world.below(256));
    new TextEncoder().encodeInto(`${this.name} ${i}`, payload);
    const record = i > 0 && this.#cluster.mustSwitch() ? wal.switchSegment() : wal.next(payload);
    const cut = world.below(record.bytes.length);
    if (cut > 0) driver.append(record.startLsn, record.bytes.slice(0, cut));
    driver.append((record.startLsn + cut) as Lsn, record.bytes.slice(cut));
    return record;
  }
}
