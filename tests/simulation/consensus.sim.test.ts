/**
 * Safekeepers and proposers under every fault at once: racing proposers, connections that break, partitions, processes that are killed,
 * power failures that lose or tear unsynchronised writes. Never is an acknowledged record lost, there is one history, a term has one
 * winner; and once the faults stop, a proposer is elected and commits.
 *
 * Real: safekeeper, proposer, both protocols, WAL files. Modelled: network, disks, time, what is in the records.
 * `SIM_SEEDS=500 SIM_FIRST=1000` runs more seeds; `SIM_TRACE=1` shows what happens.
 */
import { describe, expect, it } from 'vitest';
import { ConsensusCluster, SimCompute, simStartLsn } from './consensus-cluster.ts';
import { World } from './world.ts';

const seedCount = Number(process.env.SIM_SEEDS ?? 12);
const firstSeed = Number(process.env.SIM_FIRST ?? 1);
const chaosMs = 20_000;
const healMs = 120_000;

interface Outcome {
  readonly cluster: ConsensusCluster;
  readonly committed: number;
  readonly progress: boolean;
}

async function simulate(seed: number, acceptorCount: number): Promise<Outcome> {
  const world = new World(seed * 2 + (acceptorCount === 1 ? 1 : 0));
  const cluster = new ConsensusCluster(world, acceptorCount, {
    delayMaxMs: world.pick([5, 50, 400]),
    breakChance: world.pick([0, 0.002, 0.02]),
  });
  for (const node of cluster.nodes) cluster.startSafekeeper(node);
  const computes: SimCompute[] = [];
  const start = () => {
    const compute = new SimCompute(cluster, `compute${computes.length + 1}`);
    computes.push(compute);
    void compute.run(1 + world.below(150));
  };
  start();
  scheduleFaults(cluster, computes, start);
  await world.run(chaosMs);

  // Then all is well, and a last compute has to get somewhere.
  cluster.network.calm = true;
  cluster.network.heal();
  for (const compute of computes) compute.kill();
  for (const node of cluster.nodes) cluster.startSafekeeper(node);
  const last = new SimCompute(cluster, 'last');
  void last.run(5);
  const progress = await world.run(healMs, () => last.finished);
  let verified = false;
  if (progress && last.committed >= 5) {
    void cluster.verify(last.endLsn).then(() => {
      verified = true;
    });
    await world.run(healMs, () => verified);
  }
  last.kill();
  return { cluster, committed: cluster.ledger.records.length, progress: progress && verified };
}

function scheduleFaults(cluster: ConsensusCluster, computes: SimCompute[], start: () => void): void {
  const { world, network } = cluster;
  const strike = () => {
    if (world.now() >= chaosMs) return;
    const node = world.pick(cluster.nodes);
    const fault = world.below(5);
    if (fault === 0) {
      cluster.killSafekeeper(node, world.chance(0.6));
      world.after(world.below(1500), () => cluster.startSafekeeper(node));
    } else if (fault === 1) {
      const client = world.pick(computes).name;
      network.cut(client, node.name);
      world.after(world.below(15_000), () => network.heal());
    } else if (fault === 2) {
      world.pick(computes).kill();
      start();
    } else if (fault === 3) {
      // Rivals, at once, while the others still run.
      for (let i = world.below(4); i > 0; i--) start();
    } else if (world.chance(0.2)) {
      for (const other of cluster.nodes) {
        cluster.killSafekeeper(other, true);
        world.after(world.below(1000), () => cluster.startSafekeeper(other));
      }
    }
    if (computes.every((compute) => compute.finished)) start();
    world.after(world.below(1500), strike);
  };
  world.after(world.below(1000), strike);
}

describe.each([1, 3])('%i acceptors', (acceptorCount) => {
  let committed = 0;
  let elections = 0;
  let fences = 0;
  let torn = 0;
  for (let seed = firstSeed; seed < firstSeed + seedCount; seed++) {
    it(`seed ${seed}`, async () => {
      const outcome = await simulate(seed, acceptorCount);
      expect(outcome.cluster.violations).toEqual([]);
      expect(outcome.progress, 'a compute commits once the faults have stopped').toBe(true);
      committed += outcome.committed;
      elections += outcome.cluster.elections;
      fences += outcome.cluster.fences;
      for (const { disk } of outcome.cluster.nodes) torn += disk.tornWrites;
    });
  }

  it('the runs were eventful', () => {
    expect(committed).toBeGreaterThan(20 * seedCount);
    expect(elections).toBeGreaterThan(3 * seedCount);
    expect(fences).toBeGreaterThan(0);
    expect(torn).toBeGreaterThan(0);
  });
});

it('the same seed ends in the same state', async () => {
  const first = await simulate(4711, 3);
  const second = await simulate(4711, 3);
  expect(first.committed).toBeGreaterThan(0);
  expect(second.cluster.fingerprint()).toBe(first.cluster.fingerprint());
  expect(first.cluster.ledger.records[0]!.startLsn).toBeGreaterThanOrEqual(simStartLsn);
});
