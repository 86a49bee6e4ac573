select batch.payload from batch where (
{condition}
)
