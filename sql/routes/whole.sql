select array_agg(one.id), array_agg(route_state), array_agg(route_message) into ids, states, messages from unnest(route_batch) as one;
    return;
