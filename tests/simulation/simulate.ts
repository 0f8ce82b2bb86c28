/**
 * One run of the simulation: a seed decides how many safekeepers there are, what goes wrong and when, and in which order everything happens.
 *
 * Real: safekeepers, proposers, both protocols, WAL files. Modelled: network, disks, time, what is in the records.
 *
 * For a while everything fails at once: racing proposers; connections that break; partitions one way and both; messages that are lost, come twice or
 * overtake others; processes that are killed; power failures that lose or tear what was not synchronised; disks that are slow, full or
 * fail; a minority of disks put back to what they held before; a member that is lost and replaced. Then all is well, and a last compute has to commit.
 */
import type { SafekeeperConfiguration } from '../../engine/model/configuration.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { ConsensusCluster, followWal, type SimNode } from './consensus-cluster.ts';
import { SimCompute } from './sim-compute.ts';
import { World } from './world.ts';

export interface Outcome {
  readonly seed: number;
  readonly safekeepers: number;
  /** What did not hold; empty if all did. */
  readonly violations: readonly string[];
  /** Records whose commit was acknowledged. */
  readonly committed: number;
  readonly elections: number;
  readonly fences: number;
  readonly tornWrites: number;
  readonly diskFailures: number;
  readonly staleRestores: number;
  readonly noticedOldDisks: number;
  readonly replacements: number;
  /** Safekeepers that caught up from another one. */
  readonly recoveries: number;
  /** Of everything that the run led to: the same seed ends in the same. */
  readonly fingerprint: number;
}

const chaosMs = 12_000;
const healMs = 120_000;

export async function simulate(seed: number, trace = false): Promise<Outcome> {
  const world = new World(seed);
  const isDatagram = world.chance(0.4);
  const cluster = new ConsensusCluster(world, {
    acceptorCount: world.pick([1, 3, 3, 3, 5]),
    faults: {
      delayMaxMs: world.pick([5, 50, 400]),
      breakChance: world.pick([0, 0.002, 0.02]),
      dropChance: isDatagram ? 0.004 : 0,
      duplicateChance: isDatagram ? 0.004 : 0,
      overtakeChance: isDatagram ? 0.004 : 0,
    },
    upkeep: world.chance(0.75),
    trace,
  });
  const { checkers, network } = cluster;
  for (const node of cluster.nodes) cluster.startSafekeeper(node);
  const chaos = new Chaos(cluster);
  const reading = new AbortController();
  for (let i = 1; i <= 2; i++) void followWal(cluster, `reader${i}`, reading.signal);
  chaos.begin();
  await world.run(chaosMs);

  network.calm = true;
  network.heal();
  cluster.repair();
  for (const compute of chaos.computes) compute.kill();
  const isReplaced = () => cluster.replacements.every(({ done }) => done);
  if (!(await world.run(healMs, isReplaced)))
    checkers.violate('a safekeeper could not be replaced after all was well again');
  const last = new SimCompute(cluster, 'last');
  void last.run(5);
  await world.run(healMs, () => last.finished);
  if (last.committed < 5) checkers.violate('no compute could commit after all was well again');
  else {
    let verified = false;
    void cluster
      .verify(last.endLsn)
      .catch((error: Error) => checkers.violate(`WAL is not there: ${error.message}`))
      .then(() => {
        verified = true;
      });
    await world.run(healMs, () => verified);
    if (!verified) checkers.violate('not every safekeeper has caught up after all was well again');
  }
  last.kill();
  reading.abort();
  const { computes } = chaos;
  const sum = (of: (node: SimNode) => number) => cluster.nodes.reduce((total, node) => total + of(node), 0);
  return {
    seed,
    safekeepers: cluster.members.length,
    violations: checkers.violations,
    committed: checkers.acknowledged.length,
    elections: computes.filter(({ isElected }) => isElected).length,
    fences: computes.filter(({ isFenced }) => isFenced).length,
    tornWrites: sum(({ disk }) => disk.tornWrites),
    diskFailures: sum(({ disk }) => disk.failures),
    staleRestores: cluster.staleRestores,
    noticedOldDisks: cluster.noticedOldDisks,
    replacements: cluster.replacements.length,
    recoveries: cluster.recoveries,
    fingerprint: cluster.fingerprint(),
  };
}

class Chaos {
  readonly computes: SimCompute[] = [];
  readonly #cluster: ConsensusCluster;
  /** Until then one thing goes wrong in its order, and nothing else. */
  #aloneUntilMs = 0;

  constructor(cluster: ConsensusCluster) {
    this.#cluster = cluster;
  }

  begin(): void {
    const { world } = this.#cluster;
    this.#startCompute();
    const strike = () => {
      if (this.#isOver) return;
      if (world.now() >= this.#aloneUntilMs) this.#strike();
      if (this.computes.every((compute) => compute.finished)) this.#startCompute();
      world.after(world.below(1000), strike);
    };
    world.after(world.below(1000), strike);
  }

  #startCompute(
    recordCount = 1 + this.#cluster.world.below(150),
    configuration = this.#cluster.configuration,
  ): SimCompute {
    const compute = new SimCompute(this.#cluster, `compute${this.computes.length + 1}`, configuration);
    this.computes.push(compute);
    void compute.run(recordCount);
    return compute;
  }

  #strike(): void {
    const { world, members } = this.#cluster;
    const node = world.pick(members);
    switch (world.below(12)) {
      case 0:
        this.#crash(node, world.chance(0.6), 1500);
        break;
      case 1:
        this.#partition(node);
        break;
      case 2:
        world.pick(this.computes).kill();
        this.#startCompute();
        break;
      case 3:
        // Rivals, at once, while the others still run.
        for (let i = world.below(4); i > 0; i--) this.#startCompute();
        break;
      case 4:
        if (world.chance(0.3)) for (const other of members) this.#crash(other, true, 1000);
        break;
      case 5:
        this.#spoilDisk(node);
        break;
      case 6:
      case 8:
        this.#strandTail(node);
        break;
      case 7:
        if (world.chance(0.5)) this.#killThenPowerFailure(node);
        else this.#killBeforeSync(node);
        break;
      case 9:
        this.#goBackAfterAcknowledging(node);
        break;
      case 10:
        if (world.chance(0.3)) this.#cluster.lose(node, world.chance(0.5) ? world.below(10_000) : null);
        else this.#loseAndCompete(node);
        break;
      default:
        this.#goBack(node);
    }
  }

  get #isOver(): boolean {
    return this.#cluster.world.now() >= chaosMs;
  }

  #crash(node: SimNode, powerFailure: boolean, downMs: number): void {
    const { world } = this.#cluster;
    if (this.#isOver) return;
    this.#cluster.killSafekeeper(node, powerFailure);
    world.after(world.below(downMs), () => this.#cluster.startSafekeeper(node));
  }

  /**
   * One safekeeper alone has the end of the WAL, and more of it than others write for a while, as these are slow. Either it is gone when the next
   * compute comes, and back for the one after that: the little that the first wrote without it counts more than all that it has. Or it is gone soon
   * after that has been elected: what it took from it counts only if the others have it, too.
   */
  #strandTail(keeper: SimNode): void {
    const { world, network, members } = this.#cluster;
    const writer = this.computes.at(-1)!;
    writer.writeAhead();
    for (const other of members) {
      if (other === keeper) continue;
      network.cutOneWay(writer.name, other.name);
      other.disk.slowness = 20;
      world.after(3000, () => {
        other.disk.slowness = 1;
      });
    }
    const isGoneFirst = world.chance(0.5);
    world.after(100 + world.below(300), () => {
      if (this.#isOver) return;
      if (isGoneFirst) this.#passOver(keeper);
      else {
        const next = this.#startCompute();
        this.#cluster.checkers.onAnnounced = (compute) => {
          if (compute !== next.name || this.#isOver) return;
          this.#cluster.checkers.onAnnounced = () => {};
          for (const other of members) if (other !== keeper) network.cutOneWay(compute, other.name);
          world.after(10 + world.below(500), () => {
            this.#crash(keeper, false, 3000);
            next.kill();
            if (!this.#isOver) this.#startCompute();
          });
        };
      }
    });
  }

  /** From now on only what `then` does goes wrong, to a compute of its own, with so many safekeepers on its side that one more makes a quorum. */
  #stage(keeper: SimNode, then: (writer: SimCompute, few: readonly SimNode[], rest: readonly SimNode[]) => void): void {
    const { world, members, spareCount } = this.#cluster;
    if (spareCount < 1) return;
    this.#aloneUntilMs = world.now() + 6000;
    for (const compute of this.computes) compute.kill();
    const others = members.filter((other) => other !== keeper);
    const fewCount = quorumOf(members.length) - 1;
    const writer = this.#startCompute(2000);
    writer.onElected(() => then(writer, others.slice(0, fewCount), others.slice(fewCount)));
  }

  /** Unless all is to be well. */
  #later(ms: number, act: () => void): void {
    this.#cluster.world.after(ms, () => {
      if (!this.#isOver) act();
    });
  }

  /**
   * One safekeeper has acknowledged the end of the WAL, and forgets it. So have a few others before that, or they do so after; only before does the proposer
   * count both. Soon those are gone, and what the rest has is all that the next compute finds.
   */
  #goBackAfterAcknowledging(keeper: SimNode): void {
    const { world, network } = this.#cluster;
    this.#stage(keeper, (writer, few, rest) => {
      const isCounted = world.chance(0.5);
      keeper.snapshot = keeper.disk.snapshot();
      for (const other of isCounted ? rest : [...few, ...rest]) network.cutOneWay(writer.name, other.name);
      writer.writeAhead();
      this.#later(100 + world.below(300), () => {
        network.cutOneWay(writer.name, keeper.name);
        this.#cluster.restoreOldDisk(keeper);
        this.#later(world.below(300), () => this.#cluster.startSafekeeper(keeper));
        this.#later(500 + world.below(1000), () => {
          for (const other of few) network.mendOneWay(writer.name, other.name);
          this.#later(50 + world.below(400), () => {
            for (const other of few) this.#crash(other, false, 3000);
            this.#startCompute();
          });
          world.after(2000, () => network.heal());
        });
      });
    });
  }

  /**
   * What one safekeeper has only written when its process is killed, the next one must make durable before it counts: as soon as that is committed its power
   * fails, the others that have it are gone, and a compute comes.
   */
  #killBeforeSync(keeper: SimNode): void {
    const { world, network } = this.#cluster;
    this.#stage(keeper, (writer, few, rest) => {
      for (const other of rest) network.cutOneWay(writer.name, other.name);
      keeper.disk.slowness = 60;
      writer.writeAhead();
      world.after(30 + world.below(80), () => {
        keeper.disk.slowness = 1;
        if (this.#isOver) return;
        this.#cluster.killSafekeeper(keeper, false);
        this.#cluster.startSafekeeper(keeper);
        writer.onCommitted(() => {
          if (this.#isOver) return;
          this.#crash(keeper, true, 100);
          for (const other of few) this.#crash(other, false, 3000);
          this.#startCompute();
        });
        world.after(3000, () => network.heal());
      });
    });
  }

  /**
   * A member is lost, replaced and comes back: with a few others it is all that an old compute needs, while a new one has the rest and the new member. The old one
   * has ruled all the time; or it comes late, and the few have forgotten by then that there are other members now.
   */
  #loseAndCompete(lost: SimNode): void {
    const { world, network } = this.#cluster;
    this.#stage(lost, (writer, few, rest) => {
      const replacement = this.#cluster.lose(lost, 500 + world.below(1000));
      if (replacement === null) return;
      this.#aloneUntilMs = world.now() + 8000;
      const { configuration } = this.#cluster;
      for (const other of few) other.snapshot = other.disk.snapshot();
      const compete = () => {
        if (!replacement.isOver) {
          this.#later(300, compete);
          return;
        }
        for (const other of rest) network.cut(writer.name, other.name);
        const next = this.#startCompute();
        for (const other of few) network.cut(next.name, other.name);
        if (world.chance(0.5)) this.#forgetMembers(configuration, few, rest);
        this.#later(3000, () => {
          network.heal();
          writer.kill();
        });
      };
      this.#later(1500, compete);
    });
  }

  /** The disks of these are put back to before a member was replaced. Then somebody comes who knows of nothing else, and does not reach the rest. */
  #forgetMembers(before: SafekeeperConfiguration, few: readonly SimNode[], rest: readonly SimNode[]): void {
    const { world, network } = this.#cluster;
    for (const other of few) {
      this.#cluster.restoreOldDisk(other);
      this.#later(world.below(300), () => this.#cluster.startSafekeeper(other));
    }
    this.#later(300 + world.below(700), () => {
      const late = this.#startCompute(200, before);
      for (const other of rest) network.cut(late.name, other.name);
    });
  }

  #passOver(keeper: SimNode): void {
    const { world, network } = this.#cluster;
    // Or only out of reach: then it has not caught up from the others when it is back.
    const isGone = world.chance(0.4);
    if (isGone) this.#cluster.killSafekeeper(keeper, false);
    for (const compute of this.computes) compute.kill();
    const next = this.#startCompute(1 + world.below(2));
    if (!isGone) network.cut(next.name, keeper.name);
    const comeBack = () => {
      if (this.#isOver) return;
      next.kill();
      network.heal();
      this.#cluster.startSafekeeper(keeper);
      this.#startCompute();
    };
    next.onFinished(comeBack);
    world.after(4000, () => next.kill());
  }

  /** What a slow disk had not synchronised when the first process was killed, the second must not count on: the power fails soon after. */
  #killThenPowerFailure(node: SimNode): void {
    const { world } = this.#cluster;
    node.disk.slowness = 40;
    world.after(world.below(500), () => {
      if (!this.#isOver) {
        this.#cluster.killSafekeeper(node, false);
        this.#cluster.startSafekeeper(node);
        world.after(world.below(800), () => this.#crash(node, true, 300));
      }
      node.disk.slowness = 1;
    });
  }

  #partition(node: SimNode): void {
    const { world, network } = this.#cluster;
    const client = world.pick(this.computes).name;
    const kind = world.below(3);
    if (kind === 0) network.cut(client, node.name);
    else if (kind === 1) network.cutOneWay(client, node.name);
    else network.cutOneWay(node.name, client);
    world.after(world.below(15_000), () => network.heal());
  }

  #spoilDisk(node: SimNode): void {
    const { world } = this.#cluster;
    const { disk } = node;
    if (world.chance(0.4)) {
      disk.slowness = 20;
      world.after(world.below(4000), () => {
        disk.slowness = 1;
      });
      return;
    }
    disk.failure = world.pick(['fails', 'full']);
    world.after(world.below(3000), () => {
      if (this.#isOver) return;
      disk.failure = 'none';
      // As an operator would, who has looked after the disk.
      this.#crash(node, false, 500);
    });
  }

  /** Now its disk is remembered, some time later it is that again. */
  #goBack(node: SimNode): void {
    const { world } = this.#cluster;
    node.snapshot ??= node.disk.snapshot();
    world.after(500 + world.below(6000), () => {
      if (this.#isOver || world.chance(0.5)) return;
      this.#cluster.restoreOldDisk(node);
      world.after(world.below(1000), () => this.#cluster.startSafekeeper(node));
    });
  }
}
