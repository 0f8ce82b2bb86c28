/**
 * An operator who puts a new safekeeper in the place of one that is lost, as server/control-plane/replace-safekeeper.ts does: the members that are left learn
 * the next configuration, the new one takes over what they have, and then what runs is started again with it. The command may be cut off anywhere, and is given
 * again; the one that was lost may come back.
 */
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { configurationOf } from '../../engine/model/configuration.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { type ConsensusCluster, type SimNode, simTimeline } from './consensus-cluster.ts';

const answerTimeoutMs = 3000;

export class Replacement {
  readonly #cluster: ConsensusCluster;
  readonly #lost: SimNode;
  readonly #joining: SimNode;
  done = false;
  /** What runs was started again. */
  isOver = false;

  /** `returnsMs`: so long after that the lost one comes back; null: never. */
  constructor(cluster: ConsensusCluster, lost: SimNode, returnsMs: number | null) {
    this.#cluster = cluster;
    this.#lost = lost;
    cluster.killSafekeeper(lost, true);
    lost.isGone = true;
    const left = this.#left;
    this.#joining = cluster.addNode(left);
    const { world } = cluster;
    // With what it knew, and its disk as it was.
    if (returnsMs !== null) {
      world.after(returnsMs, () => {
        lost.isGone = false;
        cluster.startSafekeeper(lost);
      });
    }
  }

  get #left(): readonly SimNode[] {
    return this.#cluster.members.filter((node) => node !== this.#lost);
  }

  /** Until it is done. */
  async run(): Promise<void> {
    const { world, log } = this.#cluster;
    while (!this.done) {
      try {
        await this.#attempt();
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        log.info('a safekeeper is not replaced yet', { error: error.message });
      }
      await world.sleep(100 + world.below(500));
    }
  }

  async #attempt(): Promise<void> {
    const cluster = this.#cluster;
    const { world, log } = cluster;
    const left = this.#left;
    const joining = this.#joining;
    const next = configurationOf(
      cluster.configuration.generation + 1,
      [...left, joining].map(({ id }) => id).sort((a, b) => a - b),
    );
    cluster.startSafekeeper(joining);
    const answers = await Promise.all(
      left.map(async (node) => {
        try {
          await this.#ask(node, ({ safekeeper }) => safekeeper!.configure(simTimeline, next));
        } catch (error) {
          if (!isPageliteError(error, 'notFound')) return [];
        }
        return [node.id];
      }),
    );
    const from = answers.flat();
    if (from.length < quorumOf(left.length + 1)) throw new PageliteError('unavailable', 'too few answer');
    if (world.chance(0.2)) throw new PageliteError('cancelled', 'cut off before the new one has taken over');
    await this.#ask(joining, ({ upkeep }) => upkeep!.pull(simTimeline, next, from));
    if (world.chance(0.2)) throw new PageliteError('cancelled', 'cut off before the new one is a member');
    cluster.configuration = next;
    log.info(`${this.#lost.name} is replaced by ${joining.name}`, { generation: next.generation });
    this.done = true;
    for (const node of cluster.members) {
      node.peers = cluster.members.filter((other) => other !== node);
      await world.sleep(world.below(500));
      cluster.killSafekeeper(node, false);
      await world.sleep(world.below(200));
      cluster.startSafekeeper(node);
    }
    this.isOver = true;
  }

  /** A request to its API. */
  async #ask<T>(node: SimNode, request: (node: SimNode) => Promise<T>): Promise<T> {
    const { world } = this.#cluster;
    await world.sleep(5 * world.next());
    if (node.safekeeper === null) throw new PageliteError('unavailable', `${node.name} is away`);
    const late = new AbortController();
    const timeout = world.sleep(answerTimeoutMs, late.signal).then(() => {
      throw new PageliteError('unavailable', `${node.name} does not answer`);
    });
    try {
      return await Promise.race([request(node), timeout]);
    } finally {
      timeout.catch(() => {});
      late.abort();
    }
  }
}
